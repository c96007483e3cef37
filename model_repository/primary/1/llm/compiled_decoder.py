"""Passes in which every sequence adds one token, as one program: what a recorded graph is on a GPU. Engine thread.

The program takes the same steps over the same weights as `llm.fused_decoder.FusedDecoder`, which computes all other
passes, and gives the same logits to the last bit.
"""

from collections.abc import Iterator

import torch

from llm.attention import AttentionBatch
from llm.compiled import Program, Step
from llm.cpu_attention import CpuDecodeAttention
from llm.cpu_operations import gate, normalise, normalise_heads, rotate, set_rope
from llm.fused_decoder import FusedDecoder, Layer
from llm.kv_cache import KVCache
from llm.linear import JoinedLinear
from llm.operations import is_silu
from llm.paged_batch import PagedBatch
from llm.tiled_int8_linear import TiledInt8Linear
from llm.tiled_linear import TiledLinear

_Stepped = TiledLinear | TiledInt8Linear


class CompiledDecoder:
    """A `llm.decoder.Decoder`.

    Args:
        fused: the model's pass; one that `suits`.
        cache: where keys and values lie.
        attention: how its layers attend.
        max_rows: sequences in the largest pass that is a program.
    """

    def __init__(self, fused: FusedDecoder, cache: KVCache, attention: CpuDecodeAttention, max_rows: int) -> None:
        self._fused = fused
        self._attention = attention
        self._max_rows = max_rows
        self._hidden = torch.empty(max_rows, fused.embed.embedding_dim)
        self._logits = torch.empty(max_rows, _stepped(fused.head).width)
        self._between: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._program = Program([*self._layers(cache), *self._end()])

    @staticmethod
    def suits(fused: FusedDecoder) -> bool:
        """Whether all that a pass is made of is there as a step."""
        return isinstance(fused.head.packed, _Stepped) and all(map(_suits, fused.layers))

    @torch.inference_mode()
    def __call__(
        self, token_ids: torch.Tensor, positions: torch.Tensor, sampled: torch.Tensor, batch: AttentionBatch
    ) -> torch.Tensor:
        """See `llm.decoder.Decoder`; the logits are valid until the next call."""
        rows = len(token_ids)
        if not isinstance(batch, PagedBatch) or rows > self._max_rows or len(sampled) != rows:
            return self._fused(token_ids, positions, sampled, batch)
        decodes = batch.whole_pass
        if decodes is None:
            return self._fused(token_ids, positions, sampled, batch)
        self._hidden[:rows] = self._fused.embed(token_ids)
        cos, sin = self._fused.rope(positions)
        set_rope(self._program, cos, sin)
        self._attention.set_sequences(self._program, batch.slots, decodes.blocks, decodes.ends)
        self._program.run(rows)
        return self._logits[:rows, : self._fused.head.widths[0]]

    def _layers(self, cache: KVCache) -> Iterator[Step]:
        hidden, head_dim = self._hidden, self._fused.head_dim
        normed = self._buffer("normed", hidden.shape[1])
        for number, layer in enumerate(self._fused.layers):
            joined = self._buffer("joined", sum(layer.qkv.widths))
            num_query, num_key = (width // head_dim for width in layer.qkv.widths[:2])
            yield normalise(hidden, layer.input_norm, normed)
            yield from _stepped(layer.qkv).steps(normed, joined, self._scratch)
            if layer.query_norm is not None and layer.key_norm is not None:
                yield normalise_heads(joined, 0, num_query, layer.query_norm)
                yield normalise_heads(joined, num_query, num_key, layer.key_norm)
            if layer.has_rope:
                yield rotate(joined, num_query + num_key, *joined.new_empty(2, 1, head_dim))
            attended = self._buffer("attended", num_query * layer.rule.shape.value_dim)
            query = joined[:, : num_query * head_dim].view(len(joined), num_query, head_dim)
            key_value = joined[:, num_query * head_dim :]
            yield from self._attention.steps(query, key_value, cache.layers[number], layer.rule, attended)
            yield from _stepped(layer.attention_out).steps(attended, hidden, self._scratch, adds=True)
            gate_up = self._buffer("gate_up", sum(layer.gate_up.widths))
            gated = self._buffer("gated", layer.gate_up.widths[0])
            yield normalise(hidden, layer.mlp_norm, normed)
            yield from _stepped(layer.gate_up).steps(normed, gate_up, self._scratch)
            yield gate(gate_up, gated)
            yield from _stepped(layer.down).steps(gated, hidden, self._scratch, adds=True)

    def _end(self) -> Iterator[Step]:
        normed = self._buffer("normed", self._hidden.shape[1])
        yield normalise(self._hidden, self._fused.norm, normed)
        yield from _stepped(self._fused.head).steps(normed, self._logits, self._scratch)

    def _buffer(self, name: str, width: int) -> torch.Tensor:
        return self._scratch(name, self._max_rows, width, dtype=torch.float32)

    def _scratch(self, name: str, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        if (name, shape) not in self._between:
            self._between[name, shape] = torch.empty(shape, dtype=dtype)
        return self._between[name, shape]


def _stepped(linear: JoinedLinear) -> _Stepped:
    assert isinstance(linear.packed, _Stepped)
    return linear.packed


def _suits(layer: Layer) -> bool:
    packed = [linear.packed for linear in layer.linears]
    return (
        all(isinstance(linear, _Stepped) and linear.is_whole for linear in packed)
        and not any(linear.has_bias for linear in (layer.attention_out, layer.down))
        and is_silu(layer.activation)
    )
