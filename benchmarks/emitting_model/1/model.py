"""The real model over an engine that emits tokens without computing: what is left is the serving path.

Triton loads this instead of model_repository/primary/1/model.py, whose class it is; only what `load_model` returns
differs, by the engine's own seam for a runner and a sampler. The tokens are those of a text, over and over.
"""

import os
import sys
from collections.abc import Sequence as Rows
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "model_repository" / "primary" / "1"))

import model as real
from llm.block_pool import BlockPool
from llm.chat_prompt import ChatPrompt
from llm.config import EngineConfig
from llm.dialect import Dialect
from llm.engine import Engine
from llm.errors import GenerationError
from llm.grammar import Grammars
from llm.limits import ModelLimits
from llm.model_loader import LoadedModel, ModelDescription, SkippingDecoder
from llm.request import SamplingParams
from llm.sampler import Draw, Drawing
from llm.scheduler import Chunk, Scheduler
from llm.sequence import Sequence
from llm.token_bytes import TokenBytes
from transformers import AutoTokenizer

TEXT = (
    "An inference server keeps models in memory and answers requests for them. It takes many requests at once, runs "
    "them in one batch, and sends the words as they come. Whoever asks sees the first of them soon, and none twice.\n"
)
MAX_MODEL_LEN = 8192
BLOCK_SIZE = 32


class EmittingRunner:
    """A device that takes the time of a pass, without working; the logits are when it has ended.

    Args:
        seconds: the time that a pass takes at least.
    """

    returns_early = True

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ended = 0.0

    def forward(self, chunks: Rows[Chunk]) -> float:
        """See `llm.engine.Runner`."""
        del chunks
        self._ended = max(monotonic(), self._ended + self._seconds)
        return self._ended


class EmittingSampler:
    """The next token of the text, by position."""

    def __init__(self, token_ids: list[int]) -> None:
        self._draws = [Draw(token_id) for token_id in token_ids]

    def start(self, logits: float, sequences: Rows[Sequence]) -> Drawing:
        """See `llm.engine.TokenSampler`."""
        return partial(self._finish, logits, sequences)

    def _finish(self, ended: float, sequences: Rows[Sequence]) -> list[Draw | GenerationError]:
        sleep(max(0.0, ended - monotonic()))
        return [self._draws[len(sequence.token_ids) % len(self._draws)] for sequence in sequences]


def load_emitting(config: EngineConfig, *_where: object) -> LoadedModel:
    """What `llm.model_loader.load_model` returns, without a model."""
    tokenizer: Any = AutoTokenizer.from_pretrained(config.model_name)
    limits = ModelLimits(
        max_model_len=MAX_MODEL_LEN,
        vocabulary_size=len(tokenizer),
        end_token_ids=frozenset({tokenizer.eos_token_id}),
        defaults=SamplingParams(),
    )
    scheduler = Scheduler(
        BlockPool(config.max_batch_size * MAX_MODEL_LEN // BLOCK_SIZE, BLOCK_SIZE),
        max_batch_size=config.max_batch_size,
        max_batch_tokens=config.max_batch_tokens,
        max_pass_seconds=config.max_pass_ms / 1000,
    )
    runner = EmittingRunner(float(os.environ["EMITTING_PASS_MS"]) / 1000)
    engine = Engine(
        runner, EmittingSampler(tokenizer(TEXT)["input_ids"]), scheduler, limits, max_queue_size=config.max_queue_size
    )
    return LoadedModel(
        engine,
        SkippingDecoder(tokenizer),
        TokenBytes(tokenizer),
        ChatPrompt(tokenizer, MAX_MODEL_LEN),
        Grammars(tokenizer, limits.vocabulary_size, limits.end_token_ids),
        Dialect(tokenizer, limits.end_token_ids),
        ModelDescription("emitting", MAX_MODEL_LEN, "cpu", "none", "none", "fp_none", config.max_batch_size),
    )


real.load_model = load_emitting
TritonPythonModel = real.TritonPythonModel
