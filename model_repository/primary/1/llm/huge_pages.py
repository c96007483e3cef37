"""Memory in pages of 2 MiB for what each pass reads from its start to its end: a CPU's weights.

A core asks memory in advance, but not beyond a page's end, and looks up each page's address: with pages of 4 KiB one
row's pass took 15 % longer. Linux gives such pages to those who ask for them. Scratch is better off without: its rows
then meet in the same lines of the second-level cache.
"""

import mmap
from contextlib import suppress
from threading import Lock

import torch

_PAGE = 2 * 1024**2

# Tensors share pieces of this size, as most are smaller than some pages.
_PIECE = 32 * _PAGE

# No tensor shares a line of the cache, or a small page, with another.
_ALIGNMENT = 4096


class HugePages:
    """Room for tensors that stay; a piece of it is freed with the last of its tensors. Any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._piece = torch.empty(0, dtype=torch.uint8)

    def copy(self, source: torch.Tensor) -> torch.Tensor:
        """A tensor's numbers, side by side, in huge pages if the system has any.

        Raises:
            MemoryError: there is no room left.
        """
        num_bytes = source.numel() * source.element_size()
        return self._take(num_bytes).view(source.dtype).view(source.shape).copy_(source)

    def _take(self, num_bytes: int) -> torch.Tensor:
        room = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        with self._lock:
            if len(self._piece) < room:
                self._piece = _piece(max(room, _PIECE))
            taken, self._piece = self._piece[:num_bytes], self._piece[room:]
        return taken


def _piece(num_bytes: int) -> torch.Tensor:
    """So many bytes that begin with a page."""
    try:
        memory = mmap.mmap(-1, num_bytes + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{num_bytes} bytes for weights") from error
    with suppress(OSError):  # a kernel without any
        memory.madvise(mmap.MADV_HUGEPAGE)
    piece = torch.frombuffer(memory, dtype=torch.uint8)
    return piece[-piece.data_ptr() % _PAGE :]
