"""The forward pass of Llama-shaped models in few, large operations. Engine thread.

transformers' own pass is made of some eighty small operations a layer; over a few rows their calls take as long as
the matrix products. This one joins the layers that read the same input and keeps nothing but what a pass needs. It
takes over only where it was seen to compute what the model's own code computes: see `llm.decoder.build_decoder`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llm.attention import AttentionBatch, HeadRule
from llm.linear import JoinedLinear, Pack
from llm.operations import Activation, Norm, Operations

_MODEL = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(frozen=True)
class Layer:
    """The parts of a layer, in the order in which they compute."""

    rule: HeadRule
    input_norm: Norm
    qkv: JoinedLinear
    query_norm: Norm | None
    key_norm: Norm | None
    has_rope: bool
    attention_out: JoinedLinear
    mlp_norm: Norm
    gate_up: JoinedLinear
    activation: Activation
    down: JoinedLinear

    @property
    def linears(self) -> tuple[JoinedLinear, ...]:
        """Its matrix products."""
        return self.qkv, self.attention_out, self.gate_up, self.down


class FusedDecoder:
    """A `llm.decoder.Decoder` that reads a transformers model's parts instead of calling it.

    Args:
        model: a causal language model for which `has_known_shape` holds.
        rules: what each layer asks of its attention.
        operations: how the model's device computes the rest.
    """

    def __init__(self, model: Any, rules: Mapping[int, HeadRule], operations: Operations) -> None:
        body = model.model
        self._rotary = body.rotary_emb
        self._operations = operations
        self.embed: torch.nn.Embedding = body.embed_tokens
        self.layers = [_read_layer(layer, rules[number]) for number, layer in enumerate(body.layers)]
        self.norm = _read_norm(body.norm)
        self.head = JoinedLinear([model.lm_head])
        self.head_dim: int = body.layers[0].self_attn.head_dim

    def pack(self, pack: Pack) -> None:
        """Take all weights over in a faster form; the transformers model can be dropped afterwards."""
        for layer in self.layers:
            for linear in layer.linears:
                linear.pack(pack)
        self.head.pack(pack)

    def __call__(
        self, token_ids: torch.Tensor, positions: torch.Tensor, sampled: torch.Tensor, batch: AttentionBatch
    ) -> torch.Tensor:
        """See `llm.decoder.Decoder`."""
        hidden = self.embed(token_ids)
        rope = self.rope(positions)
        for number, layer in enumerate(self.layers):
            normed = self._operations.normalise(hidden, layer.input_norm)
            layer.attention_out.add_to(hidden, self._attend(number, layer, normed, rope, batch))
            joined = layer.gate_up(self._operations.normalise(hidden, layer.mlp_norm))
            layer.down.add_to(hidden, self._operations.gate(joined, layer.activation))
        return self.head(self._operations.normalise(hidden[sampled], self.norm))

    def rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine for `Operations.rotate` at `positions` `[tokens]`."""
        cos, sin = self._rotary(self.embed.weight[:1, None], positions[None])
        if cos.shape[-1] != self.head_dim:
            raise RuntimeError(f"its rotary embedding is of {cos.shape[-1]} of {self.head_dim} numbers of a head")
        sin[..., : sin.shape[-1] // 2].neg_()
        return cos[0], sin[0]

    def _attend(
        self,
        number: int,
        layer: Layer,
        hidden: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        batch: AttentionBatch,
    ) -> torch.Tensor:
        num_query, num_key = (width // self.head_dim for width in layer.qkv.widths[:2])
        joined = layer.qkv(hidden)
        if layer.query_norm is not None and layer.key_norm is not None:
            self._operations.normalise_heads(joined, 0, num_query, layer.query_norm)
            self._operations.normalise_heads(joined, num_query, num_key, layer.key_norm)
        if layer.has_rope:
            self._operations.rotate(joined, num_query + num_key, *rope)
        query = joined[:, : num_query * self.head_dim].view(len(joined), num_query, self.head_dim)
        attended = batch.attend(number, query, joined[:, num_query * self.head_dim :], layer.rule)
        return attended.flatten(1)


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


def _read_layer(layer: Any, rule: HeadRule) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
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


def _read_norm(norm: Any) -> Norm:
    return Norm(norm.weight.detach(), norm.variance_epsilon)
