#!/usr/bin/env bash
# Usage: tests/containers/run.sh [PYTEST_ARGUMENT...]
#
# Builds the images of docker/Dockerfile on stand-ins for their base images, which lie in registries, and tries them as
# real containers: Podman runs them with their own file systems, users, processes and network. Needs root, and Debian's
# podman, crun, netavark, aardvark-dns, iptables, iproute2, mmdebstrap, nginx and openssl; leaves nothing behind.
set -euo pipefail

root=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
here=$root/tests/containers
python_base=localhost/standin-python
triton_base=localhost/standin-triton
work=$(mktemp -d /var/tmp/slipstream-containers.XXXXXX)
export COMPOSE=$work/compose/compose/docker-compose # for test_compose.py

main() {
    trap clean_up EXIT
    configure_podman
    install_compose &
    local compose=$!
    announce "Stand-ins for the base images"
    make_stand_ins
    "$root/.venv/bin/python" "$root/setup/default_model.py" "$(default_model)"
    announce "Images"
    build proxy
    build triton
    build all-in-one
    podman images
    wait "$compose"
    announce "Containers"
    in_a_network_of_its_own "$root/.venv/bin/python" -m pytest -p no:cacheprovider "$here" "$@"
}

# Where launch.sh keeps it; the containers find it in their volume.
default_model() { cd "$root" && .venv/bin/python -c 'from benchmarks import service; print(service.default_model())'; }

announce() { echo "--- $* ($SECONDS s)"; }

clean_up() {
    podman rm --all --force --time 0 >/dev/null 2>&1 || true
    awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | xargs --no-run-if-empty umount --lazy
    rm -rf "$work"
}

# A store, networks and limits of this run's own. More open files and processes than this machine's are not needed.
configure_podman() {
    export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
    export BUILDAH_ISOLATION=chroot BUILDAH_FORMAT=docker
    cat >"$CONTAINERS_CONF" <<END
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[network]
network_backend = "netavark"
network_config_dir = "$work/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
END
    cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$work/store"
runroot = "$work/run"
END
}

# Where nobody waits for it: packing it takes half a minute.
install_compose() {
    "$root/.venv/bin/python" -m pip install --quiet --no-deps --target "$work/compose" --group "$root/pyproject.toml:compose"
    chmod +x "$COMPOSE"
}

# Debian with Python, and the same with Triton.
make_stand_ins() {
    mmdebstrap --quiet --variant=minbase --include=python3-venv,libpython3.11 bookworm - | podman import --quiet - "$python_base"
    podman build --quiet --build-arg PYTHON_BASE=$python_base --tag "$triton_base" \
        --file "$here/standin-triton.Dockerfile" "$root/.venv/triton"
}

# pip inside is set up as pip outside: the settings go in as a secret, the folders that they name as volumes.
build() {
    local volumes=() folder
    while read -r folder; do
        volumes+=(--volume "$folder:$folder:ro")
    done < <("$root/.venv/bin/python" "$here/pip_settings.py" "$work/pip.conf")
    podman build --quiet --network host --secret "id=pip.conf,src=$work/pip.conf" "${volumes[@]}" \
        --build-arg PYTHON_BASE=$python_base --build-arg TRITON_BASE=$triton_base \
        --target "$1" --tag "localhost/slipstream-$1" --file "$root/docker/Dockerfile" "$root" >/dev/null
    announce "$1 is built"
}

# Ports 3003 and 3000 are free there, nothing outside can be reached, and all processes end with the last line. Podman's
# record of networks is apart from the machine's, and a hybrid cgroup hierarchy, which crun refuses, is out of sight.
in_a_network_of_its_own() {
    mkdir -p /run/containers /run/netns
    # shellcheck disable=SC2016
    unshare --mount --net --pid --fork --mount-proc --kill-child bash -euc '
        ip link set lo up
        for folder in /sys/fs/cgroup /run/containers /run/netns; do mount -t tmpfs none "$folder"; done
        "$@"' - "$@"
}

main "$@"
