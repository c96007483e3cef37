"""Who computes what in the next forward pass. Imports no torch; runs on the engine thread."""

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Rows
from time import monotonic
from typing import NamedTuple

from llm.block_pool import BlockPool, block_names
from llm.chunk_pacer import ChunkPacer
from llm.sequence import Sequence


class Chunk(NamedTuple):
    """The next `num_tokens` uncomputed tokens of a sequence.

    Attributes:
        drafted_for: the sequence that `sequence` is if the tokens that it has beyond it, a draft, are accepted; None:
            all of its tokens are certain.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    drafted_for: Sequence | None = None

    @property
    def owner(self) -> Sequence:
        """Whose tokens it computes."""
        return self.drafted_for or self.sequence

    @property
    def end(self) -> int:
        """Position after the chunk's last token."""
        return self.start + self.num_tokens

    @property
    def is_last(self) -> bool:
        """Whether the pass reaches the sequence's end, so that a token can be sampled."""
        return self.end == len(self.sequence.token_ids)


class Scheduler:
    """Continuous batching: sequences join and leave between passes, first come first served.

    Running sequences have a place in the batch and cache blocks. When the blocks run out, the sequence that came
    last gives up its blocks and waits at the head of the queue; it is computed again from its tokens. The oldest
    one can always go on, because no sequence may be longer than the whole cache: so there is no deadlock.

    Args:
        pool: the cache's blocks.
        max_batch_size: sequences that run at once.
        max_batch_tokens: tokens in one pass.
        max_pass_seconds: how long a pass may take that holds up running streams.
    """

    def __init__(self, pool: BlockPool, *, max_batch_size: int, max_batch_tokens: int, max_pass_seconds: float) -> None:
        self.pool = pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0
        self.max_batch_tokens = max_batch_tokens
        self._max_batch_size = max_batch_size
        self._pacer = ChunkPacer(max_seconds=max_pass_seconds, max_tokens=max_batch_tokens)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind all others."""
        self.waiting.append(sequence)

    def remove(self, leaves: Callable[[Sequence], bool]) -> None:
        """Drop the sequences for which `leaves` holds; their blocks are free at once."""
        for sequence in self.running:
            if leaves(sequence):
                self.pool.release(sequence.block_table)
        self.running = [sequence for sequence in self.running if not leaves(sequence)]
        self.waiting = deque(sequence for sequence in self.waiting if not leaves(sequence))

    def schedule(self) -> list[Chunk]:
        """The next pass, with blocks allocated for each of its tokens. Empty when there is nothing to do."""
        self._admit()
        chunks: dict[Sequence, Chunk] = {}
        evicted: set[Sequence] = set()
        streams, prompts = self._sorted()
        order = streams + prompts
        budget = self._budget(len(streams), prompts)
        for place, sequence in enumerate(order, start=1):
            num_tokens = min(sequence.num_uncomputed, budget)
            if num_tokens > 1 and place < len(order):
                # Half at the most, as long as others come after: prompts of any length make progress in every pass.
                num_tokens = min(num_tokens, max(1, budget // 2))
            if num_tokens == 0 or sequence in evicted:
                continue
            end = sequence.num_computed + num_tokens
            if self.pool.num_missing(sequence.block_table, end):
                for victim in self._make_room(sequence, end):
                    evicted.add(victim)
                    if dropped := chunks.pop(victim, None):
                        budget += dropped.num_tokens
                if sequence in evicted:
                    continue
                self.pool.extend(sequence.block_table, end)
            chunks[sequence] = Chunk(sequence, sequence.num_computed, num_tokens)
            budget -= num_tokens
        return list(chunks.values())

    def _sorted(self) -> tuple[list[Sequence], list[Sequence]]:
        """Who chooses first from the pass's tokens: running streams, the oldest prompt, then short before long.

        So a long prompt holds up neither the streams nor a short question, and many short ones do not hold it up.
        """
        streams: list[Sequence] = []
        prompts: list[Sequence] = []
        for sequence in self.running:
            (streams if sequence.num_uncomputed == 1 else prompts).append(sequence)
        return streams, prompts[:1] + sorted(prompts[1:], key=lambda sequence: sequence.num_uncomputed)

    def _budget(self, num_streams: int, prompts: list[Sequence]) -> int:
        """Tokens of the next pass: as many as may be, or what keeps the gap in running streams short."""
        if num_streams == 0:
            return self.max_batch_tokens
        # The last part of a long prompt is none: its passes stay as short as they were.
        num_short = sum(
            sequence.num_uncomputed <= self._pacer.num_tokens and sequence.num_computed == sequence.num_reused
            for sequence in prompts
        )
        num_tokens = self._pacer.take(num_streams=num_streams, num_short_prompts=num_short)
        return min(self.max_batch_tokens, num_streams + num_tokens)

    def complete(self, chunks: Rows[Chunk], seconds: float) -> None:
        """Take note that a pass of `seconds` has computed `chunks`: what they filled can be reused from now on."""
        self._pacer.observe(sum(chunk.num_tokens for chunk in chunks if chunk.num_tokens > 1), seconds)
        for chunk in chunks:
            sequence = chunk.owner
            num_full, num_named = chunk.end // self.pool.block_size, sequence.num_computed // self.pool.block_size
            sequence.num_computed = chunk.end
            if num_full > num_named:
                self._extend_names(sequence, chunk.sequence.token_ids)
                for at in range(num_named, num_full):
                    self.pool.name(sequence.block_table[at], sequence.block_names[at])

    def _admit(self) -> None:
        # A newcomer starts when its whole prompt fits beside what the others hold; it may be evicted later.
        if not self.waiting or len(self.running) >= self._max_batch_size:
            return
        reserved = sum(
            self.pool.num_missing(sequence.block_table, len(sequence.token_ids)) for sequence in self.running
        )
        while self.waiting and len(self.running) < self._max_batch_size:
            newcomer = self.waiting[0]
            reused = self._reusable(newcomer)
            if self._is_being_computed(newcomer, len(reused)):
                return
            missing = self.pool.num_missing(reused, len(newcomer.token_ids))
            if reserved + missing + self.pool.num_idle(reused) > self.pool.num_free:
                return
            reserved += missing
            newcomer.block_table = self.pool.hold(reused)
            newcomer.num_computed = len(reused) * self.pool.block_size
            if newcomer.num_reused is None:
                self._note_first_place(newcomer)
            self.running.append(self.waiting.popleft())

    def _note_first_place(self, newcomer: Sequence) -> None:
        newcomer.num_reused = newcomer.num_computed
        self.num_queried_tokens += len(newcomer.token_ids)
        self.num_hit_tokens += newcomer.num_reused
        timeline = newcomer.submission.timeline
        if timeline.scheduled is None:
            timeline.scheduled = monotonic()
            timeline.num_reused = newcomer.num_reused

    def _reusable(self, sequence: Sequence) -> list[int]:
        """Blocks in the cache that hold the beginning of `sequence`; its last token is computed in any case."""
        self._extend_names(sequence, sequence.token_ids)
        num_full = (len(sequence.token_ids) - 1) // self.pool.block_size
        return self.pool.find(sequence.block_names[:num_full])

    def _is_being_computed(self, newcomer: Sequence, at: int) -> bool:
        """Whether a running sequence is about to fill the newcomer's block `at`: then waiting costs less than work.

        So the choices of one request, and requests with one long system prompt, compute it once.
        """
        wanted = newcomer.block_names[at : at + 1]
        if not wanted or (at + 1) * self.pool.block_size >= len(newcomer.token_ids):
            return False
        return any(
            sequence.num_uncomputed > 1 and sequence.block_names[at : at + 1] == wanted for sequence in self.running
        )

    def _extend_names(self, sequence: Sequence, token_ids: list[int]) -> None:
        sequence.block_names = block_names(token_ids, self.pool.block_size, sequence.block_names)

    def _make_room(self, sequence: Sequence, num_tokens: int) -> list[Sequence]:
        """Evict latecomers, `sequence` itself last, until its blocks can hold `num_tokens`; returns the evicted."""
        evicted: list[Sequence] = []
        while sequence not in evicted and not self.pool.can_extend(sequence.block_table, num_tokens):
            victim = self.running.pop()
            self.pool.release(victim.block_table)
            victim.num_computed = 0
            self.waiting.appendleft(victim)
            self.num_preemptions += 1
            evicted.append(victim)
        return evicted
