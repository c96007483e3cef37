"""The forward pass of Llama-shaped models in few, large operations. Engine thread.

transformers' own pass is made of some eighty small operations a layer; over a few rows their calls take as long as
the matrix products. This one joins the layers that read the same input and keeps nothing but what a pass needs. It
takes over only where it was seen to compute what the model's own code computes: see `llm.decoder.build_decoder`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import rms_norm

from llm.attention import AttentionBatch, HeadRule
from llm.linear import JoinedLinear, Pack

_MODEL = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


_Norm = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Layer:
    rule: HeadRule
    input_norm: _Norm
    qkv: JoinedLinear
    query_norm: _Norm | None
    key_norm: _Norm | None
    has_rope: bool
    attention_out: JoinedLinear
    mlp_norm: _Norm
    gate_up: JoinedLinear
    activation: Callable[[torch.Tensor], torch.Tensor]
    down: JoinedLinear

    @property
    def linears(self) -> tuple[JoinedLinear, ...]:
        return self.qkv, self.attention_out, self.gate_up, self.down


class FusedDecoder:
    """A `llm.decoder.Decoder` that reads a transformers model's parts instead of calling it.

    Args:
        model: a causal language model for which `has_known_shape` holds.
        rules: what each layer asks of its attention.
    """

    def __init__(self, model: Any, rules: Mapping[int, HeadRule]) -> None:
        body = model.model
        self._embed = body.embed_tokens
        self._rotary = body.rotary_emb
        self._layers = [_read_layer(layer, rules[number]) for number, layer in enumerate(body.layers)]
        self._norm = _read_norm(body.norm)
        self._head = JoinedLinear([model.lm_head])
        self._head_dim: int = body.layers[0].self_attn.head_dim

    def pack(self, pack: Pack) -> None:
        """Take all weights over in a faster form; the transformers model can be dropped afterwards."""
        for layer in self._layers:
            for linear in layer.linears:
                linear.pack(pack)
        self._head.pack(pack)

    def __call__(
        self, token_ids: torch.Tensor, positions: torch.Tensor, sampled: torch.Tensor, batch: AttentionBatch
    ) -> torch.Tensor:
        """See `llm.decoder.Decoder`."""
        hidden = self._embed(token_ids)
        cos, sin = self._rotary(hidden[None], positions[None])
        sin[..., : sin.shape[-1] // 2].neg_()
        rope = cos[0, :, None], sin[0, :, None]
        for number, layer in enumerate(self._layers):
            hidden += self._attend(number, layer, layer.input_norm(hidden), rope, batch)
            gate, up = layer.gate_up(layer.mlp_norm(hidden)).chunk(2, dim=-1)
            hidden += layer.down(layer.activation(gate).mul_(up))
        return self._head(self._norm(hidden[sampled]))

    def _attend(
        self,
        number: int,
        layer: _Layer,
        hidden: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        batch: AttentionBatch,
    ) -> torch.Tensor:
        num_query, num_key = (width // self._head_dim for width in layer.qkv.widths[:2])
        joined = layer.qkv(hidden)
        queries_keys = joined.view(len(hidden), -1, self._head_dim)[:, : num_query + num_key]
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = queries_keys[:, :num_query], queries_keys[:, num_query:]
            query.copy_(layer.query_norm(query))
            key.copy_(layer.key_norm(key))
        if layer.has_rope:
            _rotate(queries_keys, *rope)
        attended = batch.attend(
            number, queries_keys[:, :num_query], joined[:, num_query * self._head_dim :], layer.rule
        )
        return layer.attention_out(attended.flatten(1))


def has_known_shape(model: Any) -> bool:
    """Whether the model is built of the parts that `FusedDecoder` knows.

    That does not tell whether it puts them together in the same way.
    """
    body = getattr(model, "model", None)
    return (
        _names(model) == {"model", "lm_head"}
        and _names(body) == _MODEL
        and all(_is_known_layer(layer) for layer in body.layers)  # type: ignore[union-attr]
    )


def _is_known_layer(layer: Any) -> bool:
    if _names(layer) != _LAYER or _names(layer.mlp) != _MLP:
        return False
    parts = _names(layer.self_attn)
    joined = (
        (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
        (layer.mlp.gate_proj, layer.mlp.up_proj),
    )
    return parts - _HEAD_NORMS == _ATTENTION and all(_can_join(group) for group in joined)


def _can_join(linears: tuple[Any, ...]) -> bool:
    kinds = {(type(linear), linear.bias is None) for linear in linears}
    return len(kinds) == 1 and isinstance(linears[0], torch.nn.Linear)


def _names(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()} if isinstance(module, torch.nn.Module) else set()


def _read_layer(layer: Any, rule: HeadRule) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        rule=rule,
        input_norm=_read_norm(layer.input_layernorm),
        qkv=JoinedLinear([attention.q_proj, attention.k_proj, attention.v_proj]),
        query_norm=_read_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=_read_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        has_rope=bool(getattr(attention, "use_rope", True)),
        attention_out=JoinedLinear([attention.o_proj]),
        mlp_norm=_read_norm(layer.post_attention_layernorm),
        gate_up=JoinedLinear([mlp.gate_proj, mlp.up_proj]),
        activation=mlp.act_fn,
        down=JoinedLinear([mlp.down_proj]),
    )


def _read_norm(norm: Any) -> _Norm:
    weight, eps = norm.weight.detach(), norm.variance_epsilon
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return partial(_rms_norm, weight, torch.full((1,), eps))
    return partial(rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)


def _rms_norm(weight: torch.Tensor, eps: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """What torch's does on a CPU in some nine operations, in five."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    scale = torch.addcmul(eps, length, length, value=1 / len(weight)).rsqrt_()
    return hidden.mul(scale).mul_(weight)


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotary position embedding of `[tokens, heads, dim]` in place, in which a pair is half a head apart.

    `sin` is negative in the first half of `dim`.
    """
    partner = heads.roll(heads.shape[-1] // 2, dims=-1)
    heads.mul_(cos).addcmul_(partner, sin)
