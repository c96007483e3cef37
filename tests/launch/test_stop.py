import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.launched import ROOT, Launched, launched


@pytest.fixture
def ready(tmp_path: Path, default_model: Path) -> Iterator[Launched]:
    with launched(tmp_path) as launch:
        launch.wait_until_it_says("Ctrl-C stops it.")
        yield launch


def test_an_interrupt_stops_everything_in_order_and_is_a_success(ready: Launched) -> None:
    assert "SmolLM2-135M-Instruct on " in ready.output
    second = subprocess.run(
        [ROOT / "launch.sh"],
        env={**os.environ, "TAKEOFF_RUN_DIR": str(ready.run_dir)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert "already runs from" in second.stderr

    base = f"http://127.0.0.1:{ready.ports['TRITON_HTTP_PORT']}"
    body = b'{"text_input": "Once upon a time", "parameters": {"max_tokens": 4}}'
    with urllib.request.urlopen(f"{base}/v2/models/primary/generate", data=body, timeout=60) as answer:
        assert b"text_output" in answer.read()

    for name, error in (
        ("proxy", "12:00:00 ERROR proxy: a text"),
        ("triton", '{"level": "ERROR", "message": "a key"}'),
    ):
        with (ready.run_dir / f"{name}.log").open("a") as log:
            log.write(error + "\n")
        ready.wait_until_it_says(error)

    os.kill(ready.process.pid, signal.SIGINT)
    assert ready.exit_code() == 0, ready.output
    assert ready.processes() == []


def test_a_server_that_dies_while_the_service_starts_ends_it_with_a_reason(tmp_path: Path, default_model: Path) -> None:
    left, living = (Path(f"/dev/shm/slipstream-{pid}-test") for pid in (2**30, os.getpid()))
    left.touch()  # no process can have that number
    living.touch()
    with launched(tmp_path) as launch:
        launch.wait_until_it_says("Waiting for model primary")
        assert (left.exists(), living.exists()) == (False, True)
        living.unlink()
        [triton] = launch.processes("bin/tritonserver")
        os.kill(triton, signal.SIGKILL)
        assert launch.exit_code() == 1
        assert "launch.sh: Triton did not start: it was ended by SIGKILL" in launch.output
        assert launch.processes() == []


def test_a_second_interrupt_stops_at_once(ready: Launched) -> None:
    [proxy] = ready.processes("-m\0proxy")[:1]
    os.kill(proxy, signal.SIGSTOP)  # it cannot end in order
    os.kill(ready.process.pid, signal.SIGINT)
    ready.wait_until_it_says("Stopping")
    started = time.monotonic()
    os.kill(ready.process.pid, signal.SIGINT)
    assert ready.exit_code() == 130
    assert time.monotonic() - started < 5
    assert ready.processes() == []


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_while_the_model_loads_leaves_nothing(
    tmp_path: Path, default_model: Path, signal_number: int, code: int
) -> None:
    with launched(tmp_path) as launch:
        launch.wait_until_it_says("Waiting for model primary")
        deadline = time.monotonic() + 30
        while not launch.processes("triton_python_backend_stub"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(launch.process.pid, signal_number)
        assert launch.exit_code() == code
        # Killed, it can tell nobody: Triton ends when it notices, and a stub that loads after its load.
        deadline = time.monotonic() + (60 if signal_number == signal.SIGKILL else 0)
        while launch.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in launch.processes()] == []
