"""The processes in which Triton runs the models, as this machine's process table shows them (Linux)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_NAME = b"triton_python_backend_stub"


class Stubs:
    """The processes that run models out of `repository`."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository

    def kill(self, model: str) -> int:
        """End the model's processes at once; return how many there were."""
        pids = list(self.of(model))
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def is_running(self, model: str) -> bool:
        """Whether the model has a process, stopped or hung as it may be."""
        return any(True for _ in self.of(model))

    def of(self, model: str) -> Iterator[int]:
        """The ids of the model's processes."""
        script = self._repository / model / "1" / "model.py"
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            program, argument, *_ = [*_command_line(pid).split(b"\0"), b"", b""]
            if program.endswith(_NAME) and Path(os.fsdecode(argument)) == script:
                yield int(pid)


def _command_line(pid: str) -> bytes:
    """Empty for a process that has ended, also for one whose end nobody has asked after."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""
