"""How much memory a device has left, and whether it was too little."""

from pathlib import Path

import torch

from llm import cgroup


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`; on a CPU the container's limit counts as well."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free, allowed = _available_memory(), cgroup.memory_left()
    return free if allowed is None else min(free, allowed)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this is how Python, or torch for one of its devices, says that an allocation has failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch has no class of its own for the CPU's
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")
