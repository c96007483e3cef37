"""Runs the model over a batch of chunks on a CUDA device. Engine thread."""

from collections.abc import Sequence

import torch

from llm.decode_graphs import DecodeGraphs
from llm.decoder import Decoder
from llm.kv_cache import KVCache
from llm.memory import is_out_of_memory
from llm.pass_inputs import PassInputs
from llm.scheduler import Chunk
from llm.varlen_batch import VarlenAttention, VarlenBatch


class CudaRunner:
    """A model's forward pass and its KV cache, as `llm.model_runner.ModelRunner`.

    Args:
        decoder: the forward pass.
        cache: the memory for keys and values, in blocks that `attend` takes.
        attend: the attention kernel.
    """

    returns_early = True

    def __init__(self, decoder: Decoder, cache: KVCache, attend: VarlenAttention) -> None:
        self._decoder = decoder
        self._cache = cache
        self._attend = attend
        self._graphs: DecodeGraphs | None = None

    @torch.inference_mode()
    def record(self, *, max_rows: int, longest: int) -> None:
        """Record the passes in which every sequence adds one token; see `DecodeGraphs`."""
        self._graphs = DecodeGraphs(self._decoder, self._cache, self._attend, max_rows=max_rows, longest=longest)

    def is_beyond_repair(self, error: Exception) -> bool:
        """Whether every later pass will fail too: CUDA's context does not outlive a kernel's fault."""
        return isinstance(error, torch.AcceleratorError)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether the pass needed more memory than the device has left."""
        return is_out_of_memory(error)

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """See `ModelRunner.forward`; the device may still be at work on it."""
        if self._graphs is not None and self._graphs.suits(chunks):
            return self._graphs.run(chunks)
        inputs = PassInputs.of(chunks, self._cache.block_size).to(self._cache.device)
        batch = VarlenBatch(self._cache, inputs, self._attend)
        return self._decoder(inputs.token_ids, inputs.positions, inputs.sampled, batch)
