"""Looks at a model from the inside: what its layers keep in a cache and ask of their attention. Runs at load."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from llm.attention import HeadRule
from llm.errors import ModelLoadError


@dataclass(frozen=True)
class Probe:
    """An `AttentionBatch` of one short sequence: attends within the pass itself and notes what each layer asks for."""

    rules: dict[int, HeadRule] = field(default_factory=dict)

    def attend(self, layer: int, query: torch.Tensor, key_value: torch.Tensor, rule: HeadRule) -> torch.Tensor:
        """See `llm.attention.AttentionBatch`."""
        self.rules[layer] = rule
        repeats = query.shape[1] // rule.shape.num_kv_heads
        keys, values = (t.repeat_interleave(repeats, dim=1).transpose(0, 1) for t in rule.shape.split(key_value))
        return scaled_dot_product_attention(query.transpose(0, 1), keys, values, is_causal=True).transpose(0, 1)


@torch.inference_mode()
def probe_layers(model: Any) -> dict[int, HeadRule]:
    """Find what each attention layer asks for by running one token through the model.

    Raises:
        ModelLoadError: some layer keeps its state elsewhere, so that this engine cannot serve the model.
    """
    probe = Probe()
    name = type(model).__name__
    zero = torch.zeros(1, dtype=torch.long, device=model.device)
    try:
        model(input_ids=zero[None], position_ids=zero[None], use_cache=False, batch=probe)
    except Exception as error:
        raise ModelLoadError(f"{name} cannot be run by this engine: {error}") from error
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if len(probe.rules) != num_layers:
        raise ModelLoadError(
            f"{name} is not supported: {len(probe.rules)} of its {num_layers} layers use transformers' attention "
            f"interface, and the engine keeps no other state (recurrent, hybrid and pre-interface models)"
        )
    return probe.rules
