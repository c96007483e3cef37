"""Draws tokens on a GPU: one kernel for all rows that ask for nothing but temperature and filters. Engine thread."""

from collections.abc import Sequence as Rows
from functools import partial

import numpy as np
import torch

from llm.cuda_kernels import MAX_SEGMENTS, UNUSABLE, CudaKernels
from llm.drawing import MISSED, SEGMENT, is_judged_alone, settings_of
from llm.errors import EngineError, GenerationError
from llm.sampler import NO_NUMBERS, Draw, Drawing, Sampler
from llm.sequence import Sequence

# As `Row` in kernels.cu.
_ROW = np.dtype(
    [
        ("key", "<i8"),
        ("temperature", "<f4"),
        ("top_p", "<f4"),
        ("min_p", "<f4"),
        ("top_k", "<i4"),
        ("row", "<i4"),
        ("unused", "<i4"),
    ]
)
_THREADS = 1024


class CudaSampler:
    """A `llm.sampler.Sampler` of which the host does almost nothing.

    Made of torch's operations, a draw is some fifty launches, which took 1.5 ms for one row of 128,256 tokens, longer
    than the model's own pass. Rows that ask for more, and those whose every attempt the filters dropped, are drawn so
    nevertheless. Which way a row goes depends on the row alone, so that a seed repeats its text in any company.

    Args:
        kernels: for the type that the logits come in.
        max_rows: of a pass.
    """

    def __init__(self, kernels: CudaKernels, device: torch.device, max_rows: int) -> None:
        self._kernels = kernels
        self._others = Sampler()
        # What is sent and fetched lies where the device reaches it by itself; each pass is waited for before the next.
        is_pinned = device.type == "cuda"
        self._asked = torch.empty(max_rows * _ROW.itemsize, dtype=torch.uint8, pin_memory=is_pinned)
        self._rows = torch.empty_like(self._asked, device=device)
        self._tokens = torch.empty(max_rows, dtype=torch.int32, device=device)
        self._drawn = torch.empty(max_rows, dtype=torch.int32, pin_memory=is_pinned)

    @torch.inference_mode()
    def start(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> Drawing:
        """See `llm.engine.TokenSampler`."""
        vocabulary = logits.shape[-1]
        is_known = logits.dtype == self._kernels.dtype and logits.is_contiguous()
        mine = [row for row, sequence in enumerate(sequences) if is_known and _is_plain(sequence, vocabulary)]
        if mine:
            self._launch(logits, sequences, mine)
        return partial(self._finish, logits, sequences, mine)

    @torch.inference_mode()
    def _finish(self, logits: torch.Tensor, sequences: Rows[Sequence], mine: list[int]) -> list[Draw | GenerationError]:
        draws: dict[int, Draw | GenerationError] = {}
        for row, token in zip(mine, self._wait(len(mine)) if mine else (), strict=True):
            if token == UNUSABLE:
                draws[row] = EngineError(NO_NUMBERS)
            elif token != MISSED:
                draws[row] = Draw(token)
        others = [row for row in range(len(sequences)) if row not in draws]
        if others:
            found = self._others.sample(logits[others], [sequences[row] for row in others])
            draws.update(zip(others, found, strict=True))
        return [draws[row] for row in range(len(sequences))]

    def _launch(self, logits: torch.Tensor, sequences: Rows[Sequence], mine: list[int]) -> None:
        vocabulary, count = logits.shape[-1], len(mine)
        asked = np.array([_describe(row, sequences[row], vocabulary) for row in mine], dtype=_ROW)
        size = asked.nbytes
        self._asked[:size].numpy()[:] = asked.view(np.uint8)
        self._rows[:size].copy_(self._asked[:size], non_blocking=True)
        arguments = (self._tokens, logits, self._rows, vocabulary, int(vocabulary % 8 == 0))
        self._kernels.launch("draw", count, _THREADS, arguments)
        self._drawn[:count].copy_(self._tokens[:count], non_blocking=True)

    def _wait(self, count: int) -> list[int]:
        self._kernels.wait()
        tokens: list[int] = self._drawn[:count].tolist()
        return tokens


def _is_plain(sequence: Sequence, vocabulary: int) -> bool:
    """Whether the kernel draws for it: it cannot where the nucleus is a share of the k best (see `Distributions`)."""
    asks_more = sequence.logits_rule is not None or sequence.logprobs is not None
    return is_judged_alone(sequence) and not asks_more and vocabulary // SEGMENT < MAX_SEGMENTS


def _describe(row: int, sequence: Sequence, vocabulary: int) -> tuple[int, float, float, float, int, int, int]:
    key, temperature, top_k, top_p, min_p = settings_of(sequence, vocabulary)
    return key, temperature if sequence.temperature > 0 else 0.0, top_p, min_p, top_k, row, 0
