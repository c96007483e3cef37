import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parents[2] / "model_repository" / "primary" / "1"
CHILD = """
import threading
from orphan import end_with_parent
end_with_parent()
print("waits", flush=True)
threading.Event().wait()
"""
PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_waits_for_ever_ends_with_its_parent(signal_number: int):
    """A model's process stayed behind, with its memory, when Triton ended as a load did."""
    environment = {**os.environ, "PYTHONPATH": str(MODEL)}
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"waits\n"
        child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
        try:
            time.sleep(0.2)
            assert _lives(child)  # as long as its parent does
            parent.send_signal(signal_number)
            parent.wait()
            deadline = time.monotonic() + 5
            while _lives(child) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not _lives(child)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _lives(pid: int) -> bool:
    with suppress(OSError):  # it has been collected
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
