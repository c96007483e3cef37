"""A GPT-2 that breaks when it is told to: code that comes with a model, and runs in the model's process.

Its config.json names a folder, `fault_folder`. A file `load` or `pass` there holds the name of a fault, which the next
load, or the next forward pass, takes with it: a process that replaces this one is sound.
"""

import threading
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel


class FaultyModel(GPT2LMHeadModel):  # type: ignore[misc]
    """See the module."""

    def __init__(self, config: Any) -> None:
        _fail(Path(config.fault_folder, "load"))
        super().__init__(config)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute, or break."""
        _fail(Path(self.config.fault_folder, "pass"))
        return super().forward(*args, **kwargs)


def _fail(file: Path) -> None:
    try:
        fault = file.read_text()
        file.unlink()
    except FileNotFoundError:
        return
    match fault:
        case "thread":
            raise SystemExit  # ends a thread without a word
        case "cuda":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        case "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        case "hang":
            threading.Event().wait()
