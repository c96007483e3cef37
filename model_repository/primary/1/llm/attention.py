"""Attention over the paged KV cache, plugged into any transformers model through `AttentionInterface`.

A model loaded with `attn_implementation=IMPLEMENTATION` calls `paged_attention` in each layer; the batch description
and the cache come with it as the keyword argument `batch` of the model's forward call. Runs on the engine thread.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from llm.kv_cache import LayerShape

IMPLEMENTATION = "slipstream_paged"


@dataclass(frozen=True)
class HeadRule:
    """What a layer asks of its attention: the score's scale, and what some families add to it.

    Attributes:
        shape: heads and widths of its keys and values.
        window: a token sees itself and the `window - 1` tokens before it; None: all of them.
        softcap: scores become `softcap * tanh(score / softcap)` (Gemma 2).
        sinks: per query head, the score of an extra key without value (gpt-oss).
    """

    shape: LayerShape
    scale: float | None
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None


class AttentionBatch(Protocol):
    """What the model's layers reach through the keyword argument `batch`."""

    def attend(self, layer: int, query: torch.Tensor, key_value: torch.Tensor, rule: HeadRule) -> torch.Tensor:
        """Attend with all sequences of the pass side by side.

        Args:
            layer: the layer's number.
            query: `[tokens, heads, key_dim]`.
            key_value: `[tokens, kv_heads * (key_dim + value_dim)]`: all key heads, then all value heads.
            rule: what the layer asks for.

        Returns:
            `[tokens, heads, value_dim]`.
        """


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
    shape = LayerShape(key.shape[1], key.shape[-1], value.shape[-1])
    rule = HeadRule(shape, scaling, sliding_window, softcap, s_aux)
    layer = module.layer_idx
    assert isinstance(layer, int)
    key_value = torch.cat([key[0].transpose(0, 1).flatten(1), value[0].transpose(0, 1).flatten(1)], dim=-1)
    return batch.attend(layer, query[0].transpose(0, 1), key_value, rule)[None], None


AttentionInterface.register(IMPLEMENTATION, paged_attention)


def attention(
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
