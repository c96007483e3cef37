"""compose.yaml as Docker's own Compose reads it, and what it must agree with elsewhere."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proxy.config import ProxyConfig
from tests.launch.launched import ROOT

FILES = ("compose.yaml", "compose.cpu.yaml")


def services(*files: str, **environ: str) -> dict[str, Any]:
    """The services of these files, as Compose would start them."""
    arguments = [f"--file={ROOT / 'docker' / file}" for file in files]
    command = [os.environ["COMPOSE"], *arguments, "--profile=monitoring", "config", "--format=json"]
    done = subprocess.run(command, env={"HOME": "/tmp", **environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def seconds(duration: str) -> float:
    [(minutes, rest)] = re.findall(r"(?:(\d+)m)?([\d.]+)s", duration)
    return 60 * float(minutes or 0) + float(rest)


def test_the_gpu_is_reserved_and_a_file_laid_over_takes_it_back() -> None:
    [device] = services(FILES[0])["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    triton = services(*FILES)["triton"]
    assert "deploy" not in triton
    assert triton["environment"]["TAKEOFF_DEVICE"] == "cpu"


def test_both_servers_have_longer_to_stop_than_they_take() -> None:
    found = services(FILES[0])
    assert seconds(found["proxy"]["stop_grace_period"]) >= ProxyConfig().shutdown_timeout + 10
    assert seconds(found["triton"]["stop_grace_period"]) >= 25  # launch.sh: the keeper's 5, Triton's 20


def test_only_the_proxys_ports_are_open_to_others() -> None:
    found = services(FILES[0], TAKEOFF_BIND="127.0.0.1")
    assert "ports" not in found["triton"]
    for name in ("proxy", "prometheus", "grafana"):
        assert {port["host_ip"] for port in found[name]["ports"]} == {"127.0.0.1"}


def test_keys_are_files_and_are_named_to_the_servers_only_where_there_are_some(tmp_path: Path) -> None:
    assert services(FILES[0])["proxy"]["environment"]["TAKEOFF_API_KEYS_FILE"] == ""
    found = services(FILES[0], TAKEOFF_API_KEYS_FILE=str(tmp_path), TAKEOFF_CONFIG_FILE=str(tmp_path))
    assert found["proxy"]["environment"]["TAKEOFF_API_KEYS_FILE"] == "/run/secrets/api_keys"
    assert found["triton"]["environment"]["TAKEOFF_CONFIG_FILE"] == found["triton"]["configs"][0]["target"]


@pytest.mark.parametrize("name", ["triton", "proxy"])
def test_our_own_containers_have_no_root_no_privileges_and_nothing_to_write_to(name: str) -> None:
    service = services(FILES[0])[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["restart"] == "unless-stopped"
    assert service.get("user", "10001:10001") != "0"


def test_every_image_is_pinned_and_ours_carry_the_projects_version() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    for name, service in services(FILES[0]).items():
        tag = service["image"].rpartition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), name
        assert tag == version[1] or "build" not in service
    assert set(re.findall(r"VERSION=(.+)", (ROOT / "docker/Dockerfile").read_text())) == {version[1]}


def test_every_file_that_is_mounted_is_there() -> None:
    for service in services(FILES[0]).values():
        for volume in service.get("volumes", []):
            assert volume["type"] != "bind" or Path(volume["source"]).exists(), volume
