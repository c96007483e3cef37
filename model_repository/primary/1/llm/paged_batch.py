"""One pass's attention over the paged KV cache. Engine thread."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import torch

from llm.attention import HeadRule, attention
from llm.cache_attention import TORCH_ALONE, CacheAttention
from llm.kv_cache import KVCache


@dataclass(frozen=True)
class Extent:
    """Where a sequence stands in a pass: `num_tokens` new tokens after `start` cached ones, in `block_table`."""

    start: int
    num_tokens: int
    block_table: Sequence[int]

    @property
    def end(self) -> int:
        """Tokens in the cache after the pass."""
        return self.start + self.num_tokens


@dataclass(frozen=True)
class DecodeGroup:
    """Sequences with one new token each and block tables of similar length, computed in one call.

    Attributes:
        tokens: their places in the pass; None: they are the whole pass, in its order.
        blocks: their block tables `[rows, blocks]`.
        ends: how many tokens each has.
        biases: what is added to the scores, by the layer's window.
    """

    tokens: torch.Tensor | None
    blocks: torch.Tensor
    ends: torch.Tensor
    biases: dict[int | None, torch.Tensor] = field(default_factory=dict)


class PagedBatch:
    """One pass over the cache: writes the new keys and values, then attends sequence by sequence.

    Sequences that add one token go together. Where torch attends, they are stacked by length, so that a short one is
    padded to less than twice its own length, and longer chunks (prefill) go one by one.

    Args:
        extents: the sequences, in the order of their tokens in the pass.
        cache_attention: what need not be torch.

    Attributes:
        slots: where in the cache the pass's tokens go `[tokens]`, block number x block size + offset.
    """

    def __init__(
        self,
        cache: KVCache,
        extents: Sequence[Extent],
        device: torch.device,
        cache_attention: CacheAttention = TORCH_ALONE,
    ) -> None:
        self._cache = cache
        self._device = device
        self._attention = cache_attention
        self.slots = self._slot_mapping(extents)
        self._prefills: list[tuple[int, Extent]] = []
        decodes: list[tuple[int, Extent]] = []
        offset = 0
        for extent in extents:
            (decodes if extent.num_tokens == 1 else self._prefills).append((offset, extent))
            offset += extent.num_tokens
        self._groups = self._group_decodes(decodes)
        self._prefill_biases: dict[tuple[int, int | None], torch.Tensor] = {}

    @property
    def whole_pass(self) -> DecodeGroup | None:
        """The sequences, where each adds one token and all go together."""
        return self._groups[0] if not self._prefills and self._groups[0].tokens is None else None

    def attend(self, layer: int, query: torch.Tensor, key_value: torch.Tensor, rule: HeadRule) -> torch.Tensor:
        """See `AttentionBatch`."""
        self._cache.write(layer, self.slots, key_value)
        if self.whole_pass is not None:
            return self._decode(layer, self.whole_pass, query, rule)
        tokens, heads, _ = query.shape
        out = query.new_empty(tokens, heads, rule.shape.value_dim)
        for group in self._groups:
            out[group.tokens] = self._decode(layer, group, query[group.tokens], rule)
        if self._attention.prefill is not None:
            blocks, chunks = self._chunks
            self._attention.prefill(query, self._cache.layers[layer], blocks, chunks, rule, out)
            return out
        for number, (offset, extent) in enumerate(self._prefills):
            span = slice(offset, offset + extent.num_tokens)
            out[span] = self._prefill(layer, number, extent, query[span], key_value[span], rule)
        return out

    def _slot_mapping(self, extents: Sequence[Extent]) -> torch.Tensor:
        size = self._cache.block_size
        slots = [
            extent.block_table[position // size] * size + position % size
            for extent in extents
            for position in range(extent.start, extent.end)
        ]
        return torch.tensor(slots, device=self._device)

    def _group_decodes(self, decodes: list[tuple[int, Extent]]) -> list[DecodeGroup]:
        def bucket(decode: tuple[int, Extent]) -> int:
            return (self._num_blocks(decode[1]) - 1).bit_length() if self._attention.decode is None else 0

        groups = []
        for _, members in groupby(sorted(decodes, key=bucket), key=bucket):
            rows = list(members)
            is_whole_pass = len(rows) == len(decodes) and not self._prefills
            groups.append(
                DecodeGroup(
                    tokens=None if is_whole_pass else torch.tensor([o for o, _ in rows], device=self._device),
                    blocks=self._tables([extent for _, extent in rows]),
                    ends=torch.tensor([extent.end for _, extent in rows], device=self._device),
                )
            )
        return groups

    @cached_property
    def _chunks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the prefills the block tables and chunks; see `PrefillAttention`."""
        chunks = [(offset, extent.start, extent.num_tokens) for offset, extent in self._prefills]
        return self._tables([extent for _, extent in self._prefills]), torch.tensor(chunks, device=self._device)

    def _num_blocks(self, extent: Extent) -> int:
        return -(-extent.end // self._cache.block_size)

    def _tables(self, extents: Sequence[Extent]) -> torch.Tensor:
        """Block tables `[extents, blocks]`. Padding names block 0; whatever lies there is not looked at, or hidden."""
        width = max(map(self._num_blocks, extents))
        tables = [(list(extent.block_table[:width]) + [0] * width)[:width] for extent in extents]
        return torch.tensor(tables, device=self._device)

    def _decode(self, layer: int, group: DecodeGroup, query: torch.Tensor, rule: HeadRule) -> torch.Tensor:
        if self._attention.decode is not None:
            return self._attention.decode(query, self._cache.layers[layer], group.blocks, group.ends, rule)
        keys, values = rule.shape.split(self._cache.read(layer, group.blocks).to(query.dtype))
        rows, length, kv_heads, _ = keys.shape
        if rule.window not in group.biases:
            group.biases[rule.window] = _bias(group.ends[:, None] - 1, length, rule.window, query.dtype)
        # The query heads that share a key head stand in as that head's query positions: no repeated keys.
        grouped = query.reshape(rows, kv_heads, -1, query.shape[-1])
        out = attention(grouped, keys.transpose(1, 2), values.transpose(1, 2), group.biases[rule.window], rule)
        return out.reshape(rows, query.shape[1], -1)

    def _prefill(
        self, layer: int, number: int, extent: Extent, query: torch.Tensor, fresh: torch.Tensor, rule: HeadRule
    ) -> torch.Tensor:
        tokens, heads, dim = query.shape
        kv_heads = rule.shape.num_kv_heads
        if extent.start == 0:
            # As they lie in the cache: what a token sees must not depend on how its prompt was cut.
            key_value = self._cache.rounded(fresh)[None]
        else:
            key_value = self._cache.read(layer, self._tables([extent]))[:, : extent.end].to(query.dtype)
        keys, values = (tensor.transpose(1, 2) for tensor in rule.shape.split(key_value))
        if (number, rule.window) not in self._prefill_biases:
            positions = torch.arange(extent.start, extent.end, device=self._device)
            bias = _bias(positions[None], extent.end, rule.window, query.dtype)
            self._prefill_biases[number, rule.window] = bias.repeat(1, 1, heads // kv_heads, 1)
        grouped = query.transpose(0, 1).reshape(1, kv_heads, -1, dim)
        out = attention(grouped, keys, values, self._prefill_biases[number, rule.window], rule)
        return out.reshape(heads, tokens, -1).transpose(0, 1)


def _bias(positions: torch.Tensor, length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """0 where a query at `positions` `[rows, queries]` sees a key, else -inf: `[rows, 1, queries, length]`."""
    keys = torch.arange(length, device=positions.device)
    hidden = keys > positions[..., None]
    if window is not None:
        hidden |= keys <= positions[..., None] - window
    bias = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return bias.masked_fill_(hidden, float("-inf"))[:, None]
