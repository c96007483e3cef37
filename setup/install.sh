#!/usr/bin/env bash
# Usage: setup/install.sh GROUP...
#
# Makes .venv and installs the named dependency groups of pyproject.toml into it; what a package brings along has the
# version of setup/constraints.txt. A group that is there already costs nothing; whatever an interrupted run left behind
# is repaired by the next.
set -euo pipefail

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
venv=$root/.venv
python=$venv/bin/python
# numpy 1.26, which Triton's Python backend needs, has no wheels for newer ones
is_supported='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'

fail() {
    echo "launch.sh: $*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${TAKEOFF_PYTHON:-python3 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c "$is_supported" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or 3.12 found as ${TAKEOFF_PYTHON:-python3, python3.12 or python3.11};" \
        "install one (Debian, Ubuntu: sudo apt-get install python3.11 python3.11-venv) and start again"
}

# A fresh Debian or Ubuntu has Python without ensurepip; the pip wheel of its python3-pip-whl package runs in place.
make_venv() {
    local base=$1
    rm -rf "$venv"
    if "$base" -c 'import ensurepip, venv' 2>/dev/null; then
        "$base" -m venv "$venv"
        return
    fi
    echo "This Python has no pip: unpacking the distribution's own into .venv"
    "$base" -m venv --without-pip "$venv"
    "$root/setup/debian_package.sh" "$venv/pip-wheel" python3-pip-whl || fail "$base cannot make a virtual" \
        "environment with pip; run: sudo apt-get install python3-venv (or python3-pip-whl), and start again"
    "$python" "$(echo "$venv"/pip-wheel/usr/share/python-wheels/pip-*.whl)/pip" install --quiet pip
    rm -rf "$venv/pip-wheel"
}

venv_works() {
    "$python" -c "$is_supported" 2>/dev/null && "$python" -m pip --version >/dev/null 2>&1
}

is_installed() {
    [[ "$(cat "$venv/installed/$1" 2>/dev/null)" == "$fingerprint" ]]
}

find_missing() {
    local group
    missing=()
    "$python" -c "$is_supported" 2>/dev/null || { missing=("$@") && return; }
    for group in "$@"; do is_installed "$group" || missing+=("$group"); done
}

# The stamps are written last, so that an interrupted installation counts as none.
install_groups() {
    local arguments=() group
    for group in "$@"; do arguments+=(--group "$root/pyproject.toml:$group"); done
    echo "Installing $* into .venv (once; a few minutes)"
    "$python" -m pip install --quiet --upgrade 'pip>=25.1' # the first that knows --group
    "$python" -m pip install --progress-bar "$([[ -t 1 ]] && echo on || echo off)" \
        --constraint "$root/setup/constraints.txt" "${arguments[@]}" ||
        fail "pip could not install $*: see above; start again to go on from here"
    mkdir -p "$venv/installed"
    for group in "$@"; do echo "$fingerprint" >"$venv/installed/$group"; done
}

# of the dependencies alone: a changed setting of a tool installs nothing
fingerprint=$({
    sed -n '/^\[dependency-groups\]/,/^\[/p' "$root/pyproject.toml"
    cat "$root/setup/constraints.txt"
} | sha256sum)

# What is complete is left alone: in a container nothing can be written here.
find_missing "$@"
((${#missing[@]})) || exit 0

mkdir -p "$root/.slipstream"
exec 9>"$root/.slipstream/install.lock"
flock --nonblock 9 || { echo "Waiting for another installation in this folder" && flock 9; }
find_missing "$@" # another installation may have brought it meanwhile
((${#missing[@]})) || exit 0
if ! venv_works; then
    base=$(find_python)
    echo "Making .venv with $base"
    make_venv "$base"
fi
install_groups "${missing[@]}"
