"""The small operations of a fused pass, those between its matrix products, on any device. Engine thread."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import rms_norm
from transformers.activations import SiLUActivation

Activation = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Norm:
    """RMSNorm: the factors `[width]` of numbers that were divided by their root mean square."""

    weight: torch.Tensor
    eps: float


def is_silu(activation: Activation) -> bool:
    """Whether it is the one that the compiled gates of each device compute."""
    return isinstance(activation, torch.nn.SiLU | SiLUActivation)


class Operations(Protocol):
    """What each device computes fastest in a way of its own."""

    def normalise(self, rows: torch.Tensor, norm: Norm) -> torch.Tensor:
        """`[rows, width]`, each normalised by itself."""

    def normalise_heads(self, joined: torch.Tensor, first: int, count: int, norm: Norm) -> None:
        """So many heads of each row of `joined` `[rows, heads * head_dim]`, from one on, each by itself, in place."""

    def gate(self, joined: torch.Tensor, activation: Activation) -> torch.Tensor:
        """`activation(left) * right` of `[rows, 2 * width]`, which holds left ones, then right ones."""

    def rotate(self, joined: torch.Tensor, count: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Rotary position embedding of the first heads of each row of `joined` `[rows, heads * head_dim]`, in place.

        A pair is half a head apart; `cos` and `sin` are `[rows, head_dim]`, `sin` negative in the first half.
        """


class TorchOperations:
    """By torch's own; see `Operations`."""

    def normalise(self, rows: torch.Tensor, norm: Norm) -> torch.Tensor:
        """See `Operations`."""
        return rms_norm(rows, norm.weight.shape, norm.weight, norm.eps)

    def normalise_heads(self, joined: torch.Tensor, first: int, count: int, norm: Norm) -> None:
        """See `Operations`."""
        heads = joined.view(len(joined), -1, len(norm.weight))[:, first : first + count]
        heads.copy_(self.normalise(heads, norm))

    def gate(self, joined: torch.Tensor, activation: Activation) -> torch.Tensor:
        """See `Operations`."""
        left, right = joined.chunk(2, dim=-1)
        return activation(left).mul_(right)

    def rotate(self, joined: torch.Tensor, count: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """See `Operations`."""
        rows, head_dim = cos.shape
        heads = joined.view(rows, -1, head_dim)[:, :count]
        partner = heads.roll(head_dim // 2, dims=-1)
        heads.mul_(cos[:, None]).addcmul_(partner, sin[:, None])
