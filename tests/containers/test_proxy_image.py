"""The proxy's image by itself, hardened as far as it goes: no root, nothing to write to but /tmp, no privileges."""

import json
from collections.abc import Iterator

import pytest

from tests.containers.container import Container, podman, running

HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@pytest.fixture(scope="module")
def proxy() -> Iterator[Container]:
    with running("proxy", *HARDENED) as proxy:
        while "Slipstream is ready" not in proxy.output:
            assert proxy.state["Status"] == "running", proxy.output
        yield proxy


def test_it_runs_as_nobody_in_particular_and_can_write_to_tmp_alone(proxy: Container) -> None:
    assert proxy.run("id", "-u").stdout == "10001\n"
    assert "Read-only file system" in proxy.run("touch", "/opt/slipstream/launch.sh", user="0").stderr
    assert "Installing" not in proxy.output
    assert proxy.run("ls", "/etc/pip.conf").returncode != 0  # it was a secret of the build


def test_it_holds_neither_torch_nor_the_engine_nor_an_installer(proxy: Container) -> None:
    for module in ("torch", "transformers", "pip"):
        assert "ModuleNotFoundError" in proxy.run(".venv/bin/python", "-c", f"import {module}").stderr, module
    assert proxy.run("ls", "model_repository").returncode != 0


def test_its_health_check_fails_while_there_is_no_triton_and_says_so(proxy: Container) -> None:
    assert not proxy.is_healthy()
    check = proxy.run("./launch.sh", "health", "proxy")
    assert check.returncode == 1
    assert "127.0.0.1:8001 cannot be reached" in check.stderr


def test_its_labels_name_the_version_and_its_history_holds_no_secret() -> None:
    [image] = json.loads(podman("inspect", "localhost/slipstream-proxy"))
    assert image["Labels"]["org.opencontainers.image.title"] == "Slipstream proxy"
    assert image["Labels"]["org.opencontainers.image.base.name"] == "localhost/standin-python"
    assert not any(name in json.dumps(image["Config"]["Env"]) for name in ("KEY", "TOKEN", "PIP_"))


def test_a_bad_setting_ends_it_with_a_sentence() -> None:
    with running("proxy", *HARDENED, "--env=TAKEOFF_MAX_CHOICES=many") as proxy:
        assert proxy.exit_code() == 1
        assert "TAKEOFF_MAX_CHOICES='many' cannot be used" in proxy.output


def test_sigterm_ends_it_as_a_success(proxy: Container) -> None:
    assert proxy.stop() == 0
    assert "Stopping: running answers finish first" in proxy.output
