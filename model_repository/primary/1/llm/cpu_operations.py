"""What stands between the matrix products of a pass, in float32 on a CPU, each in one step. Engine thread."""

from typing import Any

import numpy as np
import torch
from numba import carray

from llm.compiled import ParallelLoop, Program, Step, bits
from llm.intrinsics import address, exp, float_of, num_threads, thread_number
from llm.operations import Activation, Norm, TorchOperations, is_silu

_F32 = np.float32


class CpuOperations(TorchOperations):
    """By compiled loops; see `llm.operations.Operations`."""

    def normalise(self, rows: torch.Tensor, norm: Norm) -> torch.Tensor:
        """See `Operations`."""
        out = torch.empty_like(rows)
        normalise(rows, norm, out).run(rows.numel())
        return out

    def normalise_heads(self, joined: torch.Tensor, first: int, count: int, norm: Norm) -> None:
        """See `Operations`."""
        normalise_heads(joined, first, count, norm).run(joined.numel())

    def gate(self, joined: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See `Operations`."""
        if not is_silu(activation):
            return super().gate(joined, activation)
        out = joined.new_empty(len(joined), joined.shape[1] // 2)
        gate(joined, out).run(joined.numel())
        return out

    def rotate(self, joined: torch.Tensor, count: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """See `Operations`."""
        rotate(joined, count, cos, sin).run(joined.numel())


def normalise(rows: torch.Tensor, norm: Norm, out: torch.Tensor) -> Step:
    """The step that `CpuOperations.normalise` is."""
    return Step.of(_normalise, *rows.shape, bits(norm.eps), rows, norm.weight, out)


def normalise_heads(joined: torch.Tensor, first: int, count: int, norm: Norm) -> Step:
    """The step that `CpuOperations.normalise_heads` is."""
    return Step.of(_normalise_heads, *joined.shape, first, count, len(norm.weight), bits(norm.eps), joined, norm.weight)


def gate(joined: torch.Tensor, out: torch.Tensor) -> Step:
    """The step that `CpuOperations.gate` is, of SiLU."""
    return Step.of(_gate, *out.shape, joined, out)


def rotate(joined: torch.Tensor, count: int, cos: torch.Tensor, sin: torch.Tensor) -> Step:
    """The step that `CpuOperations.rotate` is."""
    return Step.of(_rotate, *joined.shape, count, cos.shape[1], joined, cos, sin)


def set_rope(program: Program, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Have a program rotate by these."""
    program.set(_rotate, 5, cos.data_ptr())
    program.set(_rotate, 6, sin.data_ptr())


@ParallelLoop
def _normalise(arguments: Any) -> None:
    numbers = carray(arguments, 6)
    rows, width, eps = numbers[0], numbers[1], float_of(np.int32(numbers[2]))
    source = carray(address(numbers[3]), (rows, width), _F32)
    weight = carray(address(numbers[4]), width, _F32)
    out = carray(address(numbers[5]), (rows, width), _F32)
    for row in range(thread_number(), rows, num_threads()):
        squares = _F32(0)
        for i in range(width):
            squares += source[row, i] * source[row, i]
        scale = _F32(1) / np.sqrt(squares / _F32(width) + eps)
        for i in range(width):
            out[row, i] = source[row, i] * scale * weight[i]


@ParallelLoop
def _normalise_heads(arguments: Any) -> None:
    numbers = carray(arguments, 8)
    rows, width, first, count = numbers[0], numbers[1], numbers[2], numbers[3]
    head_dim, eps = numbers[4], float_of(np.int32(numbers[5]))
    joined = carray(address(numbers[6]), (rows, width), _F32)
    weight = carray(address(numbers[7]), head_dim, _F32)
    for row in range(thread_number(), rows, num_threads()):
        for head in range(first, first + count):
            start = head * head_dim
            squares = _F32(0)
            for i in range(head_dim):
                squares += joined[row, start + i] * joined[row, start + i]
            scale = _F32(1) / np.sqrt(squares / _F32(head_dim) + eps)
            for i in range(head_dim):
                joined[row, start + i] *= scale * weight[i]


@ParallelLoop
def _gate(arguments: Any) -> None:
    numbers = carray(arguments, 4)
    rows, width = numbers[0], numbers[1]
    joined = carray(address(numbers[2]), (rows, 2 * width), _F32)
    out = carray(address(numbers[3]), (rows, width), _F32)
    for row in range(thread_number(), rows, num_threads()):
        for i in range(width):
            left = joined[row, i]
            out[row, i] = left / (_F32(1) + exp(-left)) * joined[row, width + i]


@ParallelLoop
def _rotate(arguments: Any) -> None:
    numbers = carray(arguments, 7)
    rows, width, count, head_dim = numbers[0], numbers[1], numbers[2], numbers[3]
    joined = carray(address(numbers[4]), (rows, width), _F32)
    cos = carray(address(numbers[5]), (rows, head_dim), _F32)
    sin = carray(address(numbers[6]), (rows, head_dim), _F32)
    half = head_dim // 2
    for row in range(thread_number(), rows, num_threads()):
        for head in range(count):
            start = head * head_dim
            for i in range(half):
                left, right = joined[row, start + i], joined[row, start + half + i]
                joined[row, start + i] = left * cos[row, i] + right * sin[row, i]
                joined[row, start + half + i] = right * cos[row, half + i] + left * sin[row, half + i]
