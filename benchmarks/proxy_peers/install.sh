#!/usr/bin/env bash
# Usage: benchmarks/proxy_peers/install.sh
#
# Installs what bench_proxy.py compares with, pinned, each into a place of its own under .bench. Costs nothing when
# all is there.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
places=$here/../../.bench

for peer in fastapi litellm; do
    list=$here/$peer.txt place=$places/$peer
    [[ -f $place/installed && $(<"$place/installed") == "$(<"$list")" ]] && continue
    "${TAKEOFF_PYTHON:-python3}" -m venv --clear "$place"
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list"
    cp "$list" "$place/installed"
done
