"""The random numbers of a draw: one for each (seed, position, token), the same on every machine and device.

Knows nothing of logits. Engine thread.
"""

import struct
from hashlib import blake2b

import torch

# The steps and constants of SplitMix64 (Steele, Lea and Flood 2014), as signed numbers, which is what torch has.
STEP = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
# How many uniform numbers there are.
NUM_UNIFORM = 2**52


def choice_seed(seed: int, index: int) -> int:
    """The seed of choice `index` of a request."""
    return _hash(seed, -1 - index) % 2**64


def draw_key(seed: int, position: int) -> int:
    """What all numbers of one draw start from, in [-2**63, 2**63)."""
    return _hash(seed, position)


def gumbel(keys: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise, which makes the argmax of log weights a draw by the weights.

    Args:
        keys: `[rows, 1]` int64, each row's `draw_key`.
        counters: `[rows or 1, n]` int64, such as token ids.

    Returns:
        `[rows, n]` float64.
    """
    bits = keys + counters * STEP
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        bits = (bits ^ _shift_right(bits, shift)) * multiplier
    bits ^= _shift_right(bits, 31)
    # Half a step off, so that neither 0 nor 1 comes up, of which the logarithms are none.
    uniform = (_shift_right(bits, 12).double() + 0.5) / NUM_UNIFORM
    return -torch.log(-torch.log(uniform))


def _shift_right(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Shift without copies of the sign."""
    return torch.bitwise_and(bits >> places, 2 ** (64 - places) - 1)


def _hash(seed: int, number: int) -> int:
    packed = struct.pack("<Qq", seed % 2**64, number)
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little", signed=True)
