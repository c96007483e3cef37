"""Passes in which every sequence adds one token, recorded as CUDA graphs: one launch instead of a thousand.

A graph is recorded for some numbers of rows; a pass runs in the next larger one, its last rows being its first row
again. CUDA only. Engine thread.
"""

import logging
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from time import monotonic
from typing import Any

import torch

from llm.decoder import Decoder
from llm.kv_cache import KVCache
from llm.pass_inputs import PassInputs
from llm.scheduler import Chunk
from llm.varlen_batch import VarlenAttention, VarlenBatch

log = logging.getLogger(__name__)

_SMALL = (1, 2, 4, 8)
_STEP = 16


def row_counts(max_rows: int) -> list[int]:
    """The numbers of rows that get a graph, rising; the last one is `max_rows`."""
    counts = {count for count in (*_SMALL, *range(_STEP, max_rows, _STEP)) if count < max_rows}
    return [*sorted(counts), max_rows]


def padded(chunks: Rows[Chunk], num_rows: int) -> list[Chunk]:
    """As many chunks as rows: the first one stands in for those that lack, and writes the same numbers again."""
    return [*chunks, *[chunks[0]] * (num_rows - len(chunks))]


@dataclass(frozen=True)
class _Graph:
    """A recorded pass: it reads `inputs` and writes `logits`."""

    graph: torch.cuda.CUDAGraph
    inputs: PassInputs
    logits: torch.Tensor


class DecodeGraphs:
    """The recorded passes of one model.

    Recording writes into the first place of the cache: make it before anything else lies there.

    Args:
        max_rows: sequences in the largest pass.
        longest: tokens that a sequence may have.
    """

    def __init__(
        self, decoder: Decoder, cache: KVCache, attend: VarlenAttention, *, max_rows: int, longest: int
    ) -> None:
        self._block_size = cache.block_size
        self._longest = longest
        self._graphs: dict[int, _Graph] = {}
        began = monotonic()
        pool: Any = None  # torch's handle on the memory that the graphs share
        try:
            # From large to small, so that the small ones find the memory of the large ones.
            for num_rows in row_counts(max_rows)[::-1]:
                inputs = PassInputs.idle(num_rows, cache.block_size, longest=longest).to(cache.device)
                recorded = _record(decoder, VarlenBatch(cache, inputs, attend), inputs, pool)
                pool = recorded.graph.pool()
                self._graphs[num_rows] = recorded
            log.info("recorded passes of up to %d rows in %.1f s", max_rows, monotonic() - began)
        except RuntimeError as error:  # an operation that waits for the device cannot be recorded
            log.warning("passes of this model cannot be recorded, and are launched one operation at a time: %s", error)
            self._graphs = {}

    def suits(self, chunks: Rows[Chunk]) -> bool:
        """Whether there is a recorded pass for these."""
        return bool(self._graphs) and all(chunk.num_tokens == 1 and chunk.is_last for chunk in chunks)

    def run(self, chunks: Rows[Chunk]) -> torch.Tensor:
        """Their logits `[len(chunks), vocabulary]`, valid until the next run."""
        num_rows = next(count for count in sorted(self._graphs) if count >= len(chunks))
        recorded = self._graphs[num_rows]
        recorded.inputs.copy_(self._describe(padded(chunks, num_rows)))
        recorded.graph.replay()
        return recorded.logits[: len(chunks)]

    def _describe(self, chunks: Rows[Chunk]) -> PassInputs:
        return PassInputs.of(chunks, self._block_size, longest=self._longest)


def _record(decoder: Decoder, batch: VarlenBatch, inputs: PassInputs, pool: Any) -> _Graph:
    arguments = inputs.token_ids, inputs.positions, inputs.sampled, batch
    # Libraries allocate on first use, which cannot be recorded.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        decoder(*arguments)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        logits = decoder(*arguments)
    return _Graph(graph, inputs, logits)
