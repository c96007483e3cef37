"""The service under test: the real ./launch.sh with a run folder of its own, on the ports the environment names."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[1]


def default_model() -> Path:
    """The default model's folder, where `launch.sh` keeps it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slipstream"
    return Path(os.environ.get("TAKEOFF_CACHE_DIR", cache)) / "models" / "SmolLM2-135M-Instruct"


class Service:
    """A launch that is ready inside the `with` block and gone after it."""

    def __init__(self, run_dir: Path, **environ: str) -> None:
        self._run_dir = run_dir
        self._environ = environ
        self.url = f"http://127.0.0.1:{os.environ.get('TAKEOFF_OPENAI_PORT', '3003')}"

    def __enter__(self) -> Self:
        environ = {**os.environ, "TAKEOFF_RUN_DIR": str(self._run_dir), **self._environ}
        self._log = (self._run_dir / "output").open("w+")
        self._process = subprocess.Popen([ROOT / "launch.sh"], env=environ, stdout=self._log, stderr=self._log)
        self.pid = self._process.pid
        while not self._is_ready():
            if self._process.poll() is not None:
                raise RuntimeError((self._run_dir / "output").read_text())
            time.sleep(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._log.close()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False
