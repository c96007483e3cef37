"""What the compiled loops that attend over the cache of keys and values have in common. Engine thread."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from llm.attention import HeadRule
from llm.compiled import ParallelLoop, Step, bits, inlined
from llm.intrinsics import float_of

# A cache is longer than what is read of it.
ANY = 1 << 48


class CacheLoops:
    """A model's loops, one for each pair of widths that its layers have; all take the same arguments.

    Args:
        compiled: makes one, by the widths of a key and a value, tokens in a block, and bytes of a number in the cache.
        rules: what the model's layers ask for, without soft-cap or sinks.
        block_size: tokens in a block of the cache.
        dtype: the cache's, float32 or bfloat16.
    """

    def __init__(
        self,
        compiled: Callable[[int, int, int, int], ParallelLoop],
        rules: Iterable[HeadRule],
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        widths = {(rule.shape.key_dim, rule.shape.value_dim) for rule in rules}
        self._of = {dims: compiled(*dims, block_size, dtype.itemsize) for dims in widths}
        self.all = list(self._of.values())

    def step(
        self,
        number: int,
        query: torch.Tensor,
        cache: torch.Tensor,
        blocks: torch.Tensor,
        places: torch.Tensor,
        rule: HeadRule,
        out: torch.Tensor,
    ) -> Step:
        """Attend into `out`, for so many of what `places` tells; see `llm.cache_attention` for the rest."""
        if query.stride()[1:] != (query.shape[2], 1):
            query = query.contiguous()
        heads, key_dim = query.shape[1:]
        scale = key_dim**-0.5 if rule.scale is None else rule.scale
        sizes = number, heads, rule.shape.num_kv_heads, blocks.shape[1], rule.window or 0, bits(scale), query.stride(0)
        return Step.of(self._of[key_dim, rule.shape.value_dim], *sizes, query, cache, blocks, places, out)


@inlined
def widened(half: Any) -> Any:
    """The bfloat16 of these bits, which are a float32's upper half."""
    return float_of(np.int32(half) << 16)
