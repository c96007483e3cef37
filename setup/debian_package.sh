#!/usr/bin/env bash
# Usage: setup/debian_package.sh FOLDER PACKAGE...
#
# Unpacks the first of the named Debian or Ubuntu packages that exists into FOLDER. Needs no root and installs
# nothing: a machine that lacks a package list gets a private one inside a temporary folder.
set -euo pipefail

folder=$1
shift

command -v apt-get >/dev/null && command -v dpkg >/dev/null || exit 1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
# apt reads as its own user `_apt` when root runs it
chmod 755 "$scratch"
private_lists=(-o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o Debug::NoLocking=1)

download() {
    local package
    for package in "${packages[@]}"; do
        apt-get "$@" -qq download "$package" 2>/dev/null && return
    done
    return 1
}

packages=("$@")
if ! download; then
    mkdir -p lists/partial cache/archives/partial
    apt-get "${private_lists[@]}" -qq update 2>/dev/null || true
    download "${private_lists[@]}"
fi
mkdir -p "$folder"
dpkg -x ./*.deb "$folder"
