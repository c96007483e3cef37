"""Runs the real ./launch.sh on ports and in a run folder of its own, and sees every process it leaves."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PORTS = ("OPENAI_PORT", "PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")


class Launched:
    """One launch. Its run folder, which every child has in its environment, marks its processes."""

    def __init__(self, run_dir: Path, mode: str = "all", **environ: str) -> None:
        self.run_dir = run_dir
        self.ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKEOFF_")}
        ports = {f"TAKEOFF_{name}": str(port) for name, port in self.ports.items()}
        self._output = (run_dir / "output").open("w+")
        self.process = subprocess.Popen(
            [ROOT / "launch.sh", mode],
            env={**clean, **ports, "TAKEOFF_RUN_DIR": str(run_dir), **environ},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        """What it has said so far."""
        return (self.run_dir / "output").read_text()

    def wait_until_it_says(self, words: str, seconds: float = 120) -> None:
        """Wait for words in the output; a launch that ends without them fails the test."""
        deadline = time.monotonic() + seconds
        while words not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def exit_code(self, seconds: float = 120) -> int:
        """Wait for the end."""
        return self.process.wait(seconds)

    def processes(self, name: str = "") -> list[int]:
        """The ids of all living processes of this launch whose command line contains `name`."""
        mark = f"TAKEOFF_RUN_DIR={self.run_dir}".encode()
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _matches(pid, mark, name)]

    def end(self) -> None:
        """End whatever a failed test has left."""
        for pid in self.processes():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()


@contextmanager
def launched(run_dir: Path, **environ: str) -> Iterator[Launched]:
    """A launch that is gone when the block ends."""
    launch = Launched(run_dir, **environ)
    try:
        yield launch
    finally:
        launch.end()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on right now, from below those that the system gives to connections by itself."""
    ports: list[int] = []
    for port in random.sample(range(15_000, 32_000), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError("no free ports")


def _matches(pid: int, mark: bytes, name: str) -> bool:
    folder = Path("/proc") / str(pid)
    try:
        is_zombie = folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z"
        environ = folder.joinpath("environ").read_bytes().split(b"\0")
        return not is_zombie and mark in environ and name.encode() in folder.joinpath("cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return False
