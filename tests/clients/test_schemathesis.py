"""Thousands of requests made from the API's own description, valid and not: no 5xx, no hang, nothing undescribed."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.clients.test_clients import VENV
from tests.launch.launched import ROOT, free_ports

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


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


@pytest.mark.parametrize(("api", "num_examples"), [("openai", 250), ("native", 60)])
def test_whatever_is_sent_the_answer_is_one_that_is_described(tmp_path: Path, api: str, num_examples: int):
    ports = dict(zip(("openai", "native"), free_ports(2), strict=True))
    url = f"http://127.0.0.1:{ports[api]}"
    server = subprocess.Popen([sys.executable, "-m", "tests.proxy.served", *map(str, ports.values())], cwd=ROOT)
    try:
        wait_for(f"http://127.0.0.1:{ports['openai']}", server)
        fuzzer = subprocess.run(
            [
                *(str(VENV / "schemathesis"), "run", f"{url}/openapi.json"),
                *("--checks", CHECKS, "--max-examples", str(num_examples), "--seed", "1", "--request-timeout", "10"),
                *("--phases", "examples,coverage,fuzzing", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert fuzzer.returncode == 0, fuzzer.stdout[-8000:]
        assert httpx.get(f"{url}/version").status_code == 200
    finally:
        server.terminate()
        server.wait(30)
