"""Runs the model over a batch of chunks. The only caller of the decoder; engine thread."""

from collections.abc import Sequence

import torch

from llm.cache_attention import CacheAttention
from llm.decoder import Decoder
from llm.kv_cache import KVCache
from llm.memory import is_out_of_memory
from llm.paged_batch import Extent, PagedBatch
from llm.scheduler import Chunk


class ModelRunner:
    """A model's forward pass and its KV cache.

    Args:
        decoder: the forward pass.
        cache: the memory for keys and values.
        cache_attention: see `PagedBatch`.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, device: torch.device, cache_attention: CacheAttention) -> None:
        self._decoder = decoder
        self._cache = cache
        self._device = device
        self._cache_attention = cache_attention
        self.returns_early = device.type != "cpu"

    def is_beyond_repair(self, error: Exception) -> bool:
        """Whether every later pass will fail too: CUDA's context does not outlive a kernel's fault."""
        return isinstance(error, torch.AcceleratorError)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether the pass needed more memory than the device has left."""
        return is_out_of_memory(error)

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Compute the chunks, store their keys and values, and return the logits to sample from.

        Returns:
            `[rows, vocabulary]` in the model's type, one row for each chunk with `is_last`, in the order of `chunks`.
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
        batch = PagedBatch(self._cache, extents, self._device, self._cache_attention)
        return self._decoder(
            torch.tensor(token_ids, device=self._device),
            torch.tensor(positions, device=self._device),
            torch.tensor(sampled, dtype=torch.long, device=self._device),
            batch,
        )
