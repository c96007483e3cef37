"""A note beside Triton's logs that says what a load is doing, because Triton itself only says that it loads.

`TAKEOFF_RUN_DIR/loading/MODEL.json` is there for as long as the model loads: `{"phase", "share", "since", "pid"}`, with
the share from 0 to 1 or null, a Unix time, and the process that loads. The launcher and the proxy read it.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


class LoadNote:
    """One model's note. Without a run folder, as in a bare Triton, nothing is written."""

    def __init__(self, model: str, environ: Mapping[str, str]) -> None:
        run_dir = environ.get("TAKEOFF_RUN_DIR")
        self._path = Path(run_dir, "loading", f"{model}.json") if run_dir else None
        self._since = time.time()

    def write(self, phase: str, share: float | None) -> None:
        """Replace the note. What hinders it must not hinder the load."""
        if self._path is None:
            return
        note = {"phase": phase, "share": share, "since": self._since, "pid": os.getpid()}
        draft = self._path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            draft.write_text(json.dumps(note))
            draft.replace(self._path)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block there is a note."""
        self.write("starting", None)
        try:
            yield
        finally:
            if self._path is not None:
                self._path.unlink(missing_ok=True)
