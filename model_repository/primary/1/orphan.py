"""Ends a model's process whose Triton has gone.

Triton's part of the process looks for that itself, but takes a lock for it which a thread may keep for ever that waits
for Triton's answer: a model, and its memory, stayed behind where Triton gave up on it at the end of its load.
"""

import os
from select import poll
from threading import Thread


def end_with_parent() -> None:
    """From now on, end this process at once when the one that started it ends. Returns at once."""
    try:
        parent = os.pidfd_open(os.getppid())
    except OSError:  # a kernel, or a container, without; Triton's part is left to look
        return
    Thread(target=_end_after, args=(parent,), name="orphan", daemon=True).start()


def _end_after(process: int) -> None:
    ended = poll()
    ended.register(process)
    ended.poll()
    os._exit(1)
