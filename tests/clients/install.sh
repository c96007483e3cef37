#!/usr/bin/env bash
# Usage: tests/clients/install.sh
#
# Installs the clients that the service is tried with, pinned, into places of their own: Python's into .clients, which
# keeps their dependencies away from ours, and Node's beside their scripts. Costs nothing when all is there.
set -euo pipefail
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../..
here=$root/tests/clients
venv=$root/.clients

lists=("$here/requirements.txt" "$here/node/package-lock.json")
wanted=$(cat "${lists[@]}" | sha256sum)
[[ -f $venv/installed && $(<"$venv/installed") == "$wanted" ]] && exit

"${TAKEOFF_PYTHON:-python3}" -m venv --clear "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$here/requirements.txt"
npm ci --prefix "$here/node" --no-audit --no-fund --silent
echo "$wanted" >"$venv/installed"
