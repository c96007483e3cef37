"""The folder `primary` as it lies in the source tree is a model that any Triton can serve, without launch.sh."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.engine.tiny_models import save_model
from tests.launch.launched import ROOT, free_ports

WHEEL = ROOT / ".venv" / "triton" / "pytriton" / "tritonserver"


@pytest.fixture
def triton_url(tmp_path: Path) -> Iterator[str]:
    """A Triton on the source tree's repository, which is told of the model by the environment alone."""
    binary, options = shutil.which("tritonserver"), []
    if binary is None:
        binary, options = str(WHEEL / "bin" / "tritonserver"), [f"--backend-directory={WHEEL / 'backends'}"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKEOFF_")}
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    (port,) = free_ports(1)
    command = [
        *(binary, *options, f"--model-repository={ROOT / 'model_repository'}"),
        *("--model-control-mode=explicit", "--load-model=primary", "--exit-timeout-secs=5"),
        *("--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"),
        f"--backend-config=python,shm-region-prefix-name=slipstream-test-{port}-",
    ]
    settings = {"PATH": path, "TAKEOFF_MODEL_NAME": str(save_model("llama", tmp_path / "model"))}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env={**clean, **settings}, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/v2/models/primary"
        wait_until_ready(url, process, tmp_path / "log")
        yield url
    finally:
        process.terminate()
        assert process.wait(30) == 0, (tmp_path / "log").read_text()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def test_the_source_trees_repository_is_served_by_a_bare_triton(triton_url: str):
    body = {"text_input": "Hi", "parameters": {"max_tokens": 3, "temperature": 0}}
    answer = httpx.post(f"{triton_url}/generate", json=body, timeout=60)
    assert answer.status_code == 200
    assert '"finish_reason"' in answer.json()["event"]
