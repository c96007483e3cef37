"""Attention over the paged KV cache, plugged into any transformers model through `AttentionInterface`.

A model loaded with `attn_implementation=IMPLEMENTATION` calls `paged_attention` in each layer; the batch description
and the cache come with it as the keyword argument `batch` of the model's forward call. Runs on the engine thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from llm.kv_cache import KVCache

IMPLEMENTATION = "slipstream_paged"


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
class HeadRule:
    """What a layer asks of its attention: the score's scale, and what some families add to it.

    Attributes:
        window: a token sees itself and the `window - 1` tokens before it; None: all of them.
        softcap: scores become `softcap * tanh(score / softcap)` (Gemma 2).
        sinks: per query head, the score of an extra key without value (gpt-oss).
    """

    scale: float | None
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None


class AttentionBatch(Protocol):
    """What the model's layers reach through the keyword argument `batch`."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: HeadRule
    ) -> torch.Tensor:
        """`[heads, tokens, dim]` each, all sequences of the pass side by side; returns `[tokens, heads, dim]`."""


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    batch: AttentionBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The function transformers calls: query `[1, heads, tokens, dim]` -> `[1, tokens, heads, dim]`."""
    rule = HeadRule(scaling, sliding_window, softcap, s_aux)
    layer = module.layer_idx
    assert isinstance(layer, int)
    return batch.attend(layer, query[0], key[0], value[0], rule)[None], None


AttentionInterface.register(IMPLEMENTATION, paged_attention)


@dataclass(frozen=True)
class _DecodeGroup:
    """Sequences with one new token each and block tables of similar length, computed in one call."""

    tokens: torch.Tensor
    blocks: torch.Tensor
    ends: torch.Tensor
    biases: dict[int | None, torch.Tensor] = field(default_factory=dict)


class PagedBatch:
    """One pass over the cache: writes the new keys and values, then attends sequence by sequence.

    Sequences that add one token are stacked by length, so that a short one is padded to less than twice its own
    length; longer chunks (prefill) go one by one.

    Args:
        extents: the sequences, in the order of their tokens in the pass.
    """

    def __init__(self, cache: KVCache, extents: Sequence[Extent], device: torch.device) -> None:
        self._cache = cache
        self._device = device
        self._slots = self._slot_mapping(extents)
        self._prefills: list[tuple[int, Extent]] = []
        decodes: list[tuple[int, Extent]] = []
        offset = 0
        for extent in extents:
            (decodes if extent.num_tokens == 1 else self._prefills).append((offset, extent))
            offset += extent.num_tokens
        self._groups = self._group_decodes(decodes)
        self._prefill_biases: dict[tuple[int, int | None], torch.Tensor] = {}

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: HeadRule
    ) -> torch.Tensor:
        """See `AttentionBatch`."""
        self._cache.write(layer, self._slots, key.transpose(0, 1), value.transpose(0, 1))
        heads, tokens, _ = query.shape
        out = query.new_empty(tokens, heads, value.shape[-1])
        for group in self._groups:
            out[group.tokens] = self._decode(layer, group, query, rule)
        for number, (offset, extent) in enumerate(self._prefills):
            span = slice(offset, offset + extent.num_tokens)
            fresh = (key[:, span], value[:, span])
            out[span] = self._prefill(layer, number, extent, query[:, span], fresh, rule)
        return out

    def _slot_mapping(self, extents: Sequence[Extent]) -> torch.Tensor:
        size = self._cache.block_size
        slots = [
            extent.block_table[position // size] * size + position % size
            for extent in extents
            for position in range(extent.start, extent.end)
        ]
        return torch.tensor(slots, device=self._device)

    def _group_decodes(self, decodes: list[tuple[int, Extent]]) -> list[_DecodeGroup]:
        def num_blocks(decode: tuple[int, Extent]) -> int:
            return -(-decode[1].end // self._cache.block_size)

        def bucket(decode: tuple[int, Extent]) -> int:
            return (num_blocks(decode) - 1).bit_length()

        groups = []
        for _, members in groupby(sorted(decodes, key=bucket), key=bucket):
            rows = list(members)
            width = max(map(num_blocks, rows))
            # Padding reads block 0; the bias hides whatever lies there.
            tables = [(list(extent.block_table[:width]) + [0] * width)[:width] for _, extent in rows]
            groups.append(
                _DecodeGroup(
                    tokens=torch.tensor([offset for offset, _ in rows], device=self._device),
                    blocks=torch.tensor(tables, device=self._device),
                    ends=torch.tensor([extent.end for _, extent in rows], device=self._device),
                )
            )
        return groups

    def _decode(self, layer: int, group: _DecodeGroup, query: torch.Tensor, rule: HeadRule) -> torch.Tensor:
        keys, values = self._cache.read(layer, group.blocks)
        rows, kv_heads, length, _ = keys.shape
        if rule.window not in group.biases:
            group.biases[rule.window] = _bias(group.ends[:, None] - 1, length, rule.window, query.dtype)
        # The query heads that share a key head stand in as that head's query positions: no repeated keys.
        grouped = query[:, group.tokens].transpose(0, 1).reshape(rows, kv_heads, -1, query.shape[-1])
        out = _attention(grouped, keys, values, group.biases[rule.window], rule)
        return out.reshape(rows, query.shape[0], -1)

    def _prefill(
        self,
        layer: int,
        number: int,
        extent: Extent,
        query: torch.Tensor,
        fresh: tuple[torch.Tensor, torch.Tensor],
        rule: HeadRule,
    ) -> torch.Tensor:
        heads, tokens, dim = query.shape
        if extent.start == 0:
            keys, values = fresh[0][None], fresh[1][None]
        else:
            size = self._cache.block_size
            used = torch.tensor([list(extent.block_table[: -(-extent.end // size)])], device=self._device)
            keys, values = (t[:, :, : extent.end] for t in self._cache.read(layer, used))
        kv_heads = keys.shape[1]
        if (number, rule.window) not in self._prefill_biases:
            positions = torch.arange(extent.start, extent.end, device=self._device)
            bias = _bias(positions[None], extent.end, rule.window, query.dtype)
            self._prefill_biases[number, rule.window] = bias.repeat(1, 1, heads // kv_heads, 1)
        grouped = query.reshape(1, kv_heads, -1, dim)
        out = _attention(grouped, keys, values, self._prefill_biases[number, rule.window], rule)
        return out.reshape(heads, tokens, -1).transpose(0, 1)


def _bias(positions: torch.Tensor, length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """0 where a query at `positions` `[rows, queries]` sees a key, else -inf: `[rows, 1, queries, length]`."""
    keys = torch.arange(length, device=positions.device)
    hidden = keys > positions[..., None]
    if window is not None:
        hidden |= keys <= positions[..., None] - window
    bias = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return bias.masked_fill_(hidden, float("-inf"))[:, None]


def _attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, rule: HeadRule
) -> torch.Tensor:
    """Softmax attention: `[rows, kv_heads, queries, dim]` over `[rows, kv_heads, length, dim]`."""
    if rule.softcap is None and rule.sinks is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=rule.scale)
    scale = query.shape[-1] ** -0.5 if rule.scale is None else rule.scale
    scores = (query @ keys.transpose(-1, -2)) * scale
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    scores = scores + bias
    if rule.sinks is not None:
        rows, kv_heads, queries, _ = scores.shape
        per_head = rule.sinks.view(1, kv_heads, -1, 1)
        sinks = per_head.repeat_interleave(queries // per_head.shape[2], dim=2).expand(rows, -1, -1, -1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : keys.shape[2]] @ values


@dataclass(frozen=True)
class Probe:
    """A batch that only looks: reports each layer's tensors and attends within the pass itself."""

    on_layer: Callable[[int, torch.Tensor, torch.Tensor], None]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: HeadRule
    ) -> torch.Tensor:
        """See `AttentionBatch`."""
        del rule
        self.on_layer(layer, key, value)
        repeats = query.shape[0] // key.shape[0]
        return value.repeat_interleave(repeats, dim=0).transpose(0, 1)
