"""A Triton on a model repository, without launch.sh and without the proxy."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.launch.launched import ROOT, free_ports

WHEEL = ROOT / ".venv" / "triton" / "pytriton" / "tritonserver"


@dataclass(frozen=True)
class BareTriton:
    """Its process, its addresses and what it has written."""

    process: "subprocess.Popen[bytes]"
    http_port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/v2"

    def wait_until_ready(self, *models: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not all(self._is_ready(model) for model in models):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def _is_ready(self, model: str) -> bool:
        try:
            return httpx.get(f"{self.url}/models/{model}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def bare_triton(
    repository: Path, models: Sequence[str], log: Path, *options: str, **environ: str
) -> Iterator[BareTriton]:
    """Yield at once, while the models still load; the server is gone when the block ends."""
    server = [shutil.which("tritonserver") or str(WHEEL / "bin" / "tritonserver")]
    if server[0].startswith(str(WHEEL)):
        server.append(f"--backend-directory={WHEEL / 'backends'}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKEOFF_")}
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    http_port, grpc_port = free_ports(2)
    command = [
        *(*server, *options, f"--model-repository={repository}", "--disable-auto-complete-config"),
        *("--model-control-mode=explicit", "--exit-timeout-secs=60", *(f"--load-model={model}" for model in models)),
        *("--http-address=127.0.0.1", f"--http-port={http_port}", "--allow-metrics=false"),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}"),
        f"--backend-config=python,shm-region-prefix-name=slipstream-test-{http_port}-",
    ]
    with log.open("w") as output:
        process = subprocess.Popen(command, env={**clean, "PATH": path, **environ}, stdout=output, stderr=output)
    try:
        yield BareTriton(process, http_port, grpc_port, log)
    finally:
        process.terminate()
        assert process.wait(90) == 0, log.read_text()
