"""Runs the model over a batch of chunks. The only caller of the model's forward; engine thread."""

from collections.abc import Sequence
from typing import Any

import torch

from llm.attention import AttentionBatch, Extent, PagedBatch, Probe
from llm.errors import ModelLoadError
from llm.kv_cache import KVCache, LayerShape
from llm.scheduler import Chunk


class ModelRunner:
    """A transformers model and its KV cache.

    Args:
        model: loaded with `attn_implementation=llm.attention.IMPLEMENTATION`.
        cache: the memory for keys and values.
    """

    def __init__(self, model: Any, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._device: torch.device = model.device

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Compute the chunks, store their keys and values, and return the logits to sample from.

        Returns:
            `[rows, vocabulary]` float32, one row for each chunk with `is_last`, in the order of `chunks`.
        """
        token_ids: list[int] = []
        positions: list[int] = []
        sampled: list[int] = []
        for chunk in chunks:
            token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
            positions += range(chunk.start, chunk.end)
            if chunk.is_last:
                sampled.append(len(token_ids) - 1)
        extents = [Extent(chunk.start, chunk.num_tokens, chunk.sequence.block_table) for chunk in chunks]
        batch = PagedBatch(self._cache, extents, self._device)
        return run_model(self._model, token_ids, positions, sampled, batch)


def run_model(
    model: Any, token_ids: list[int], positions: list[int], sampled: list[int], batch: AttentionBatch
) -> torch.Tensor:
    """The forward call: all sequences in one row of tokens, told apart by `batch` alone."""
    device = model.device
    output = model(
        input_ids=torch.tensor([token_ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        use_cache=False,
        logits_to_keep=torch.tensor(sampled, dtype=torch.long, device=device),
        batch=batch,
    )
    logits: torch.Tensor = output.logits[0]
    return logits.float()


@torch.inference_mode()
def probe_layers(model: Any) -> dict[int, LayerShape]:
    """Find each attention layer's key and value shape by running one token through the model.

    Raises:
        ModelLoadError: some layer keeps its state elsewhere, so that this engine cannot serve the model.
    """
    shapes: dict[int, LayerShape] = {}

    def on_layer(layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        shapes[layer] = LayerShape(key.shape[0], key.shape[-1], value.shape[-1])

    name = type(model).__name__
    try:
        run_model(model, [0], [0], [0], Probe(on_layer))
    except Exception as error:
        raise ModelLoadError(f"{name} cannot be run by this engine: {error}") from error
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if len(shapes) != num_layers:
        raise ModelLoadError(
            f"{name} is not supported: {len(shapes)} of its {num_layers} layers use transformers' attention "
            f"interface, and the engine keeps no other state (recurrent, hybrid and pre-interface models)"
        )
    return shapes
