"""Logs in the run folder: bounded, kept over a restart, and their errors shown where somebody looks."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import READY
from tests.launch.launched import ROOT, free_ports

LIMIT = 4000


@contextmanager
def proxy_alone(run_dir: Path, port: int) -> Iterator[None]:
    environ = {
        **os.environ,
        "TAKEOFF_RUN_DIR": str(run_dir),
        "TAKEOFF_OPENAI_PORT": str(port),
        "TAKEOFF_PORT": "0",
        "TAKEOFF_TRITON_URL": "127.0.0.1:1",
        "TAKEOFF_LOG_MAX_BYTES": str(LIMIT),
    }
    with (run_dir / "output").open("w") as output:
        launch = subprocess.Popen([ROOT / "launch.sh", "proxy"], env=environ, stdout=output, stderr=output)
        try:
            wait_until(lambda: READY in (run_dir / "output").read_text())
            yield
        finally:
            launch.send_signal(signal.SIGTERM)
            assert launch.wait(60) == 0


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ask(port: int, name: str) -> None:
    """A request that is refused, which is a line of the log."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/nowhere", headers={"x-request-id": name})
    try:
        urllib.request.urlopen(request, timeout=10)
    except urllib.error.HTTPError as error:
        error.close()


def test_a_log_begins_anew_when_it_is_too_long_and_is_kept_over_a_restart(tmp_path: Path):
    (port,) = free_ports(1)
    log, older = tmp_path / "proxy.log", tmp_path / "proxy.log.1"
    with proxy_alone(tmp_path, port):
        for number in range(60):
            ask(port, f"early-{number}")
        wait_until(older.exists)
        assert "early-0" in older.read_text()
        wait_until(lambda: log.stat().st_size < LIMIT)
        ask(port, "late")
        wait_until(lambda: "late" in log.read_text())
        assert b"\0" not in log.read_bytes()  # its writer goes on at the new end, not at the old one
    with proxy_alone(tmp_path, port):
        assert "late" in older.read_text()
        assert "late" not in log.read_text()
