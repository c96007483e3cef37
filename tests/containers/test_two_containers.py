"""Triton's image and the proxy's on one network, both without root and with read-only root file systems."""

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.containers.container import Container, podman, running
from tests.containers.nginx import nginx
from tests.containers.test_proxy_image import HARDENED

CHAT = {"model": "primary", "messages": [{"role": "user", "content": "Count to ten thousand."}], "stream": True}
LONG = {"max_tokens": 64, "ignore_eos": True}
# The process that holds the model; the image has no `ps`.
STUB = "for p in /proc/[0-9]*; do grep -qs triton_python_b $p/comm && kill -{} ${{p#/proc/}}; done; true"


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    podman("network", "create", "slipstream")
    yield "slipstream"
    podman("network", "rm", "slipstream")


@pytest.fixture(scope="module")
def triton(network: str, model_volumes: list[str]) -> Iterator[Container]:
    options = ("--network=slipstream", "--network-alias=triton", "--user=1000:1000", "--shm-size=256m")
    options += ("--env=TAKEOFF_PAGE_CACHE_SIZE=500MB", "--env=TAKEOFF_MAX_SEQUENCE_LENGTH=128")
    with running("triton", *HARDENED, *options, *model_volumes) as triton:
        triton.wait_until_healthy()
        yield triton


@pytest.fixture(scope="module")
def proxy(triton: Container) -> Iterator[Container]:
    options = ("--network=slipstream", "--env=TAKEOFF_TRITON_URL=triton:8001", "--publish=3003:3003")
    with running("proxy", *HARDENED, *options) as proxy:
        proxy.wait_until_healthy()
        yield proxy


def test_the_two_curl_commands_are_answered_through_both(proxy: Container, curl_commands: list[str]) -> None:
    whole, streamed = (subprocess.check_output(["bash", "-c", command], text=True) for command in curl_commands)
    assert len(json.loads(whole)["choices"][0]["message"]["content"]) > 20
    assert streamed.endswith("data: [DONE]\n\n")


def test_without_a_name_the_default_model_is_served_out_of_the_volume(triton: Container) -> None:
    assert "primary    SmolLM2-135M-Instruct on cpu" in triton.output
    assert "Preparing the default model" not in triton.output


def test_tritons_container_writes_nothing_but_tmp_and_the_models_and_installs_nothing(triton: Container) -> None:
    assert triton.run("id", "-u").stdout == "1000\n"
    assert "Read-only file system" in triton.run("touch", "/opt/slipstream/launch.sh", user="0").stderr
    assert triton.run("touch", "/code/models/a-new-model").returncode == 0
    assert "Installing" not in triton.output
    assert "ModuleNotFoundError" in triton.run(".venv/bin/python", "-c", "import sanic").stderr


def test_a_hanging_model_makes_triton_unhealthy_though_triton_calls_it_ready(triton: Container) -> None:
    triton.run("bash", "-c", STUB.format("STOP"))
    try:
        assert not triton.is_healthy()
        assert "model primary does not answer" in triton.run("./launch.sh", "health", "triton").stderr
    finally:
        triton.run("bash", "-c", STUB.format("CONT"))
    triton.wait_until_healthy()


def wait_until_it_answers() -> None:
    """Triton may end when a process that held its lock stood still, and is started again: see docs/reliability.md."""
    deadline, successes = time.monotonic() + 90, 0
    while successes < 3:
        assert time.monotonic() < deadline
        answer = httpx.post(
            "http://localhost:3003/v1/chat/completions", json={**CHAT, "stream": False, "max_tokens": 1}, timeout=60
        )
        successes = successes + 1 if answer.status_code == 200 else 0
        time.sleep(1)


def test_nginx_with_the_shipped_configuration_hands_tokens_on_as_they_come(proxy: Container, tmp_path: Path) -> None:
    wait_until_it_answers()
    with nginx(tmp_path) as certificate:
        transport = httpx.HTTPTransport(verify=ssl.create_default_context(cafile=str(certificate)), retries=3)
        with httpx.Client(transport=transport, base_url="https://localhost", timeout=60) as client:
            whole = client.post("/v1/chat/completions", json={**CHAT, "stream": False, "max_tokens": 8})
            assert whole.json()["usage"]["completion_tokens"] == 8
            times = []
            with client.stream("POST", "/v1/chat/completions", json={**CHAT, **LONG}) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                lines = [line for line in response.iter_lines() if not times.append(time.monotonic())]
            assert lines[-2:] == ["data: [DONE]", ""]
            assert times[-1] - times[0] > 0.5  # held back, they would arrive at once
            assert client.get("/metrics").status_code == 404
            assert client.get("/v1/nonsense").json()["error"]["type"] == "invalid_request_error"
            redirect = httpx.get("http://localhost/v1/models")
            assert (redirect.status_code, redirect.headers["location"]) == (308, "https://localhost/v1/models")


def test_a_stop_lets_a_running_answer_finish(proxy: Container) -> None:
    lines: list[str] = []
    began = threading.Event()

    def listen() -> None:
        with httpx.stream("POST", "http://localhost:3003/v1/chat/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                lines.append(line)
                began.set()

    body = {**CHAT, **LONG}
    listener = threading.Thread(target=listen)
    listener.start()
    assert began.wait(30)
    assert "data: [DONE]" not in lines
    assert proxy.stop() == 0
    listener.join()
    assert [line for line in lines if line][-1] == "data: [DONE]"


def test_triton_ends_within_its_time_as_a_success(triton: Container) -> None:
    started = time.monotonic()
    assert triton.stop(30) == 0
    assert time.monotonic() - started < 25
