"""Hand-written stand-ins at the engine's seams: a model that counts, a tokenizer of bytes, a sink that remembers."""

from collections.abc import Iterator
from collections.abc import Sequence as Rows
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any
from weakref import WeakKeyDictionary

from llm.block_pool import BlockPool
from llm.engine import Engine
from llm.errors import GenerationError
from llm.limits import ModelLimits
from llm.request import FinishReason, GenerationRequest, SamplingParams, Submission, TokenLogprobs
from llm.sampler import Draw, Drawing
from llm.scheduler import Chunk, Scheduler
from llm.sequence import Sequence

END = 100_000


class ByteTokenizer:
    """Token n is byte n modulo 256; bytes that form no character become U+FFFD, as byte-level tokenizers have it."""

    def decode(self, token_ids: list[int]) -> str:
        return bytes(token_id % 256 for token_id in token_ids).decode(errors="replace")


class DeviceFaultError(RuntimeError):
    """What a RecordingRunner takes for beyond repair."""


@dataclass
class RecordingRunner:
    """Computes nothing; stores each position's prefix in place of its keys, and checks what every pass reads."""

    pool: BlockPool
    passes: list[list[Chunk]] = field(default_factory=list)
    contents: dict[tuple[int, int], int] = field(default_factory=dict)
    prefixes: WeakKeyDictionary[Sequence, list[int]] = field(default_factory=WeakKeyDictionary)
    returns_early: bool = False

    def forward(self, chunks: Rows[Chunk]) -> list[Sequence]:
        written: dict[int, Sequence] = {}
        ends: dict[Sequence, int] = {}
        for chunk in chunks:
            table, size = chunk.sequence.block_table, self.pool.block_size
            assert chunk.start == ends.get(chunk.owner, chunk.owner.num_computed)
            assert len(table) * size >= chunk.end
            ends[chunk.owner] = chunk.end
            # What a pass writes belongs to one sequence alone; what it reads still holds the sequence's own tokens.
            for block in table[chunk.start // size : -(-chunk.end // size)]:
                assert written.setdefault(block, chunk.owner) is chunk.owner
            prefixes = self._prefixes(chunk.sequence)
            for position in range(chunk.start, chunk.end):
                self.contents[table[position // size], position % size] = prefixes[position]
            for position in (*range(size - 1, chunk.end, size), chunk.end - 1):
                assert self.contents[table[position // size], position % size] == prefixes[position]
        self.passes.append(list(chunks))
        return [chunk.sequence for chunk in chunks if chunk.is_last]

    def is_beyond_repair(self, error: Exception) -> bool:
        return isinstance(error, DeviceFaultError)

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def _prefixes(self, sequence: Sequence) -> list[int]:
        """For each position a number that stands for all tokens up to it."""
        prefixes = self.prefixes.setdefault(sequence, [])
        for token_id in sequence.token_ids[len(prefixes) :]:
            prefixes.append(hash((prefixes[-1] if prefixes else 0, token_id)))
        return prefixes


class CountingSampler:
    """The next token is the last one plus one; a sequence's text shows whether tokens were lost or doubled."""

    def start(self, logits: list[Sequence], sequences: Rows[Sequence]) -> Drawing:
        assert logits == list(sequences)
        return lambda: [Draw(sequence.token_ids[-1] + 1) for sequence in sequences]


class RepeatingSampler:
    """Few different tokens, by what stands before: what was said is often said again, and often is not."""

    def start(self, logits: list[Sequence], sequences: Rows[Sequence]) -> Drawing:
        assert logits == list(sequences)
        return lambda: [Draw(repeating(sequence.token_ids)) for sequence in sequences]


def repeating(token_ids: list[int]) -> int:
    """What a `RepeatingSampler` draws behind these."""
    return (7 * token_ids[-1] + 3 * sum(token_ids[-2:-1]) + len(token_ids) // 9) % 4


@dataclass
class RecordingSink:
    """Remembers everything it is told, and that it is told nothing after the end."""

    num_choices: int = 1
    token_ids: dict[int, list[int]] = field(default_factory=dict)
    reasons: dict[int, FinishReason] = field(default_factory=dict)
    error: GenerationError | None = None
    was_cancelled: bool = False
    ended: Event = field(default_factory=Event)
    num_ends: int = 0
    num_reused: int | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def prompt_reused(self, num_tokens: int) -> None:
        assert self.num_reused is None
        self.num_reused = num_tokens

    def tokens(
        self,
        index: int,
        token_ids: list[int],
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> None:
        self.logprobs += logprobs or []
        assert not self.ended.is_set()
        assert index not in self.reasons
        self.token_ids.setdefault(index, []).extend(token_ids)
        if finish_reason:
            self.reasons[index] = finish_reason
            if len(self.reasons) == self.num_choices:
                self._end()

    def failed(self, error: GenerationError) -> None:
        self.error = error
        self._end()

    def cancelled(self) -> None:
        self.was_cancelled = True
        self._end()

    def _end(self) -> None:
        self.num_ends += 1
        self.ended.set()


def counting_engine(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_batch_size: int = 8,
    max_batch_tokens: int = 64,
    max_model_len: int = 64,
    max_queue_size: int = 100,
    sampler: Any = None,
    speculative_tokens: int = 0,
) -> tuple[Engine, RecordingRunner]:
    """An engine on a model that counts, to be stepped by hand or started."""
    pool = BlockPool(num_blocks, block_size)
    runner = RecordingRunner(pool)
    scheduler = Scheduler(pool, max_batch_size=max_batch_size, max_batch_tokens=max_batch_tokens, max_pass_seconds=60)
    limits = ModelLimits(
        max_model_len=max_model_len, vocabulary_size=10**6, end_token_ids=frozenset({END}), defaults=SamplingParams()
    )
    engine = Engine(
        runner,
        sampler or CountingSampler(),
        scheduler,
        limits,
        max_queue_size=max_queue_size,
        speculative_tokens=speculative_tokens,
    )
    return engine, runner


@contextmanager
def running(engine: Engine) -> Iterator[Thread]:
    """The engine on a thread of its own, which has ended when the block ends."""
    thread = Thread(target=engine.run)
    thread.start()
    try:
        yield thread
    finally:
        engine.stop()
        thread.join()


def submit(engine: Engine, prompt: Rows[int], **sampling: object) -> tuple[Submission, RecordingSink]:
    """Submit a prompt and return its handle and sink."""
    parameters = SamplingParams(**sampling)  # type: ignore[arg-type]
    sink = RecordingSink(num_choices=parameters.n)
    submission = Submission(GenerationRequest(tuple(prompt), parameters), sink)
    engine.submit(submission)
    return submission, sink
