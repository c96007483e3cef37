"""What attends over the cache where it lies, instead of torch over a copy. Engine thread."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch

from llm.attention import HeadRule
from llm.kv_cache import KVCache
from llm.linear import has_avx2


class DecodeAttention(Protocol):
    """Attends over the cache where it lies, with one query for each sequence."""

    def __call__(
        self, query: torch.Tensor, cache: torch.Tensor, blocks: torch.Tensor, ends: torch.Tensor, rule: HeadRule
    ) -> torch.Tensor:
        """Attend to the first `ends` `[rows]` tokens of each sequence.

        Args:
            query: `[rows, heads, key_dim]`.
            cache: the layer's, `[num_blocks, block_size, width]`, float32 or bfloat16.
            blocks: the sequences' block tables `[rows, blocks]`.
            ends: how many tokens each has.
            rule: what the layer asks for.

        Returns:
            `[rows, heads, value_dim]`.
        """


class PrefillAttention(Protocol):
    """Attends over the cache where it lies, with the tokens of sequences that add several."""

    def __call__(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        blocks: torch.Tensor,
        chunks: torch.Tensor,
        rule: HeadRule,
        out: torch.Tensor,
    ) -> None:
        """Attend with each token to itself and those before it in its sequence.

        Args:
            query: of the whole pass, `[tokens, heads, key_dim]`.
            cache: the layer's, `[num_blocks, block_size, width]`, float32 or bfloat16; the pass's keys are in it.
            blocks: the sequences' block tables `[sequences, blocks]`.
            chunks: of each its tokens' place in the pass and in the sequence, and how many they are `[sequences, 3]`.
            rule: what the layer asks for.
            out: of the whole pass, `[tokens, heads, value_dim]`; the other tokens' rows are left alone.
        """


@dataclass(frozen=True)
class CacheAttention:
    """What attends over the cache where it lies; None: torch attends to a copy."""

    decode: DecodeAttention | None = None
    prefill: PrefillAttention | None = None


TORCH_ALONE = CacheAttention()


def find_cache_attention(rules: Collection[HeadRule], cache: KVCache, dtype: torch.dtype) -> CacheAttention:
    """The compiled ones, where they can do what the layers, which compute in `dtype`, ask for."""
    is_plain = all(rule.softcap is None and rule.sinks is None for rule in rules)
    if not is_plain or dtype != torch.float32 or cache.device.type != "cpu":
        return TORCH_ALONE
    from llm.cpu_attention import CpuDecodeAttention  # compile, which nothing else needs
    from llm.cpu_prefill_attention import CpuPrefillAttention

    decode = CpuDecodeAttention(rules, cache.block_size, cache.dtype)
    return CacheAttention(decode, CpuPrefillAttention(rules, cache.block_size, cache.dtype) if has_avx2() else None)
