"""Loops over numbers in a CPU's memory, compiled by numba when their module is imported, run by torch's own threads.

Between two products of a pass stand some dozen of torch's operations, which take longer to be called than to compute: a
compiled loop does the work of several in one call, and a program that of a whole pass. What is compiled is kept in a
folder of the user's; where that cannot be written, it is compiled anew in each process, in a few seconds.
"""

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numba
import numpy as np
import torch
from numba import carray, cfunc, types

from llm.intrinsics import address, barrier, call, fetch_and_add_one, libgomp

# Sums may be added up in another order and so side by side. Infinities and NaN stay what they are.
_FAST = {"reassoc", "contract", "nsz"}
_SIGNATURE = types.void(types.CPointer(types.int64))

# A loop's arguments take so many places; a counter for each thread follows.
_NUM_ARGUMENTS = 16

# Fewer numbers are not worth waking another thread.
_SMALL = 16_384
_LARGE = 1 << 62

_start = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(
    ("GOMP_parallel", libgomp)
)


class ParallelLoop:
    """A function that several threads of torch's own pool run at the same time, each its share.

    Args:
        function: takes a pointer to its arguments, 64-bit integers; asks `thread_number` and `num_threads`, or `take`,
            what its share is.
        is_exact: each operation rounds by itself, and sums are added up in their order.
    """

    def __init__(self, function: Callable[..., None], *, is_exact: bool = False) -> None:
        self._compiled = _compile(function, is_exact)
        self.address: int = self._compiled.address
        self._alone = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self.address)

    def __call__(self, num_threads: int, *arguments: int) -> None:
        """Run on so many threads, until all have come to the end; without Python's lock, if there are several.

        Args:
            num_threads: how many, if the pool has them.
            arguments: sizes, addresses of arrays that lie in one piece, and floats as `bits`.
        """
        numbers = (ctypes.c_int64 * (_NUM_ARGUMENTS + num_threads))(*arguments)
        if num_threads == 1:
            self._alone(numbers)
        else:
            _start(self.address, numbers, num_threads, 0)


@dataclass(frozen=True)
class Step:
    """A loop and its arguments.

    Attributes:
        loop: what is run.
        arguments: the first is the number of rows.
        tensors: those whose addresses are among the arguments, to keep them.
    """

    loop: ParallelLoop
    arguments: tuple[int, ...]
    tensors: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, loop: ParallelLoop, *arguments: int | torch.Tensor) -> Self:
        """A step with numbers and tensors, in the loop's order; a tensor's rows lie in one piece each."""
        tensors = tuple(argument for argument in arguments if isinstance(argument, torch.Tensor))
        assert all(tensor.is_contiguous() or tensor.stride(-1) == 1 for tensor in tensors)
        return cls(loop, tuple(int(a) if not isinstance(a, torch.Tensor) else a.data_ptr() for a in arguments), tensors)

    def run(self, size: int = _LARGE) -> None:
        """Run it now, on as many threads as so many numbers are worth."""
        self.loop(1 if size < _SMALL else torch.get_num_threads(), *self.arguments)


# Gives room for what lies between steps: by a name, a shape and a `dtype`. The same name and shape are the same room.
Scratch = Callable[..., torch.Tensor]


class Program:
    """Steps that run one after the other, without a word of Python between them.

    Args:
        steps: each starts when all threads have come to the end of the one before.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps  # which keep their tensors
        self._num_threads = torch.get_num_threads()
        self._numbers = np.zeros((len(steps), 1 + _NUM_ARGUMENTS + self._num_threads), dtype=np.int64)
        self._places: dict[ParallelLoop, list[int]] = {}
        for place, step in enumerate(steps):
            self._numbers[place, 0] = step.loop.address
            self._numbers[place, 1 : 1 + len(step.arguments)] = step.arguments
            self._places.setdefault(step.loop, []).append(place)

    def set(self, loop: ParallelLoop, argument: int, value: int) -> None:
        """Change an argument, by its place, of each step that is this loop."""
        self._numbers[self._places.get(loop, []), 1 + argument] = value

    def run(self, num_rows: int) -> None:
        """Run over so many rows, without Python's lock."""
        self._numbers[:, 1] = num_rows
        self._numbers[:, 1 + _NUM_ARGUMENTS :] = 0
        arguments = (ctypes.c_int64 * 3)(*self._numbers.shape, self._numbers.ctypes.data)
        _start(_run_steps.address, arguments, self._num_threads, 0)


def bits(value: float) -> int:
    """A number as an argument of a loop, which turns it back by `float_of`."""
    as_integer: int = struct.unpack("i", struct.pack("f", value))[0]
    return as_integer


def inlined(function: Callable[..., Any]) -> Any:
    """A part of compiled loops, which computes as they do."""
    return numba.njit(error_model="numpy")(function)


@inlined
def take(arguments: Any, counter: Any) -> Any:
    """Inside a loop: the next number of a counter, from 0 on; no two threads get the same."""
    return fetch_and_add_one(arguments, _NUM_ARGUMENTS + counter)


def _cache_folder() -> Path | None:
    """Where compiled code is kept: a folder for each version of the sources, as numba asks only for one file's date."""
    sources = blake2b(digest_size=8)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(file.read_bytes())
    root = os.environ.get("TAKEOFF_CACHE_DIR") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/slipstream"
    try:
        folder = Path(root).expanduser() / "compiled" / sources.hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter where there is no home
        return None
    return folder if os.access(folder, os.W_OK) else None


_folder = _cache_folder()
if _folder is not None:
    numba.config.CACHE_DIR = str(_folder)


def _compile(function: Callable[..., None], is_exact: bool) -> Any:
    fast: bool | set[str] = False if is_exact else _FAST
    return cfunc(_SIGNATURE, cache=_folder is not None, fastmath=fast, error_model="numpy")(function)


def exact_loop(function: Callable[..., None]) -> ParallelLoop:
    """A `ParallelLoop` that is exact."""
    return ParallelLoop(function, is_exact=True)


@ParallelLoop
def _run_steps(arguments: Any) -> None:
    numbers = carray(arguments, 3)
    num_steps, width, first = numbers[0], numbers[1], numbers[2]
    steps = carray(address(first), (num_steps, width), np.int64)
    for number in range(num_steps):
        call(steps[number, 0], first + 8 * (number * width + 1))
        barrier()
