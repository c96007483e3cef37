"""What models that load are doing, where Triton runs on the same machine: it leaves notes, see load_note.py.

Triton itself only says that a model loads, and until it answers it says nothing at all.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec


class _Note(msgspec.Struct):
    phase: str
    share: float | None
    since: float
    pid: int


class LoadNotes:
    """The notes in `run_dir`, which may be a folder that is not there."""

    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir, "loading")

    def reasons(self) -> dict[str, str]:
        """For each Triton model that loads right now: what it does, and for how long it has."""
        return {path.stem: _sentence(note) for path in self._folder.glob("*.json") if (note := _read(path))}


def _read(path: Path) -> _Note | None:
    """Nothing for the note of a process that has died before it could take it away."""
    try:
        note = msgspec.json.decode(path.read_bytes(), type=_Note)
    except (OSError, msgspec.MsgspecError):
        return None
    return note if Path("/proc", str(note.pid)).exists() else None


def _sentence(note: _Note) -> str:
    share = "" if note.share is None else f" {note.share:.0%}"
    return f"{note.phase}{share}, {max(0.0, time.time() - note.since):.0f} s so far"
