"""The small operations of a fused pass on a GPU, in one kernel each. Engine thread."""

import torch

from llm.cuda_kernels import CudaKernels
from llm.operations import Activation, Norm, TorchOperations, is_silu

# Threads of a block; numbers that a thread takes at a time.
_THREADS, _EIGHT = 256, 8


class CudaOperations(TorchOperations):
    """By kernels of our own where they compute what is asked; see `llm.operations.Operations`.

    torch's take two launches for a gate and three for a rotation. In a pass of few rows, each costs two microseconds.
    """

    def __init__(self, kernels: CudaKernels) -> None:
        self._kernels = kernels

    def normalise(self, rows: torch.Tensor, norm: Norm) -> torch.Tensor:
        """See `Operations`."""
        width = rows.shape[-1]
        if rows.dim() != 2 or width % _EIGHT or not self._suit(rows, norm.weight):
            return super().normalise(rows, norm)
        out = torch.empty_like(rows)
        threads = min(1024, -(-width // _EIGHT // 32) * 32 or 32)
        self._kernels.launch("normalise", len(rows), threads, (out, rows, norm.weight, width, norm.eps))
        return out

    def gate(self, joined: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See `Operations`."""
        num_rows, width = len(joined), joined.shape[1] // 2
        if not is_silu(activation) or width % _EIGHT or not self._suit(joined):
            return super().gate(joined, activation)
        out = joined.new_empty(num_rows, width)
        blocks = -(-num_rows * width // _EIGHT // _THREADS)
        self._kernels.launch("gate_silu", blocks, _THREADS, (out, joined, num_rows, width))
        return out

    def rotate(self, joined: torch.Tensor, count: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """See `Operations`."""
        if not self._suit(joined, cos, sin):
            super().rotate(joined, count, cos, sin)
            return
        num_rows, head_dim = cos.shape
        blocks = -(-num_rows * count * (head_dim // 2) // _THREADS)
        arguments = (joined, cos, sin, num_rows, joined.shape[1], count, head_dim)
        self._kernels.launch("rotate", blocks, _THREADS, arguments)

    def _suit(self, *tensors: torch.Tensor) -> bool:
        return all(tensor.dtype == self._kernels.dtype and tensor.is_contiguous() for tensor in tensors)
