"""Thousands of requests made from the API's own description, valid and not: no 5xx, no hang, nothing undescribed."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.clients.test_clients import VENV
from tests.launch.launched import ROOT

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert server.poll() is None
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            assert time.monotonic() < deadline
        time.sleep(0.1)


def test_whatever_is_sent_the_answer_is_one_that_is_described(tmp_path: Path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "tests.proxy.served", str(port)], cwd=ROOT)
    try:
        wait_for(url, server)
        fuzzer = subprocess.run(
            [
                *(str(VENV / "schemathesis"), "run", f"{url}/openapi.json"),
                *("--checks", CHECKS, "--max-examples", "400", "--seed", "1", "--request-timeout", "10"),
                *("--phases", "examples,coverage,fuzzing", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert fuzzer.returncode == 0, fuzzer.stdout[-8000:]
        assert httpx.get(f"{url}/health").status_code == 200
    finally:
        server.terminate()
        server.wait(30)
