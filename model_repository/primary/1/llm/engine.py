"""The engine: takes requests in, runs passes over the model and hands tokens out.

`run` occupies the engine thread. That thread must be the one that loaded the model: see `Engine`.
"""

import logging
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from threading import Condition
from time import monotonic
from typing import Any, Protocol

from llm.drafter import Drafter
from llm.errors import (
    DeadlineError,
    EngineError,
    GenerationError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)
from llm.limits import ModelLimits
from llm.observer import Load, Observer, Outcome, Pass, Timeline
from llm.request import FinishReason, GenerationRequest, Submission
from llm.sampler import Draw, Drawing
from llm.scheduler import Chunk, Scheduler
from llm.sequence import Sequence

log = logging.getLogger(__name__)


class Runner(Protocol):
    """What the engine needs of `ModelRunner`; the logits are the sampler's business."""

    returns_early: bool
    """Whether a device still works on a pass when `forward` returns."""

    def forward(self, chunks: Rows[Chunk]) -> Any:
        """Compute the chunks; returns the logits rows of those that are last."""

    def is_beyond_repair(self, error: Exception) -> bool:
        """Whether every later pass will fail as this one did."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether the pass needed more memory than there is; another one may need less."""


class TokenSampler(Protocol):
    """What the engine needs of `Sampler`."""

    def start(self, logits: Any, sequences: Rows[Sequence]) -> Drawing:
        """Have the device draw one token per row as soon as it has computed the logits; wait for nothing."""


# So many in a row mean that the fault is not in the requests.
_MAX_FAILED_PASSES = 3


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """A sign of life.

    Attributes:
        is_serving: whether requests are taken: neither stopping nor dead.
        pass_seconds: how long the current pass has lasted; 0 between passes.
    """

    is_serving: bool
    pass_seconds: float


@dataclass(frozen=True)
class _Cancel:
    submission: Submission


@dataclass(frozen=True)
class _FinishChoice:
    submission: Submission
    index: int


class Engine:
    """Continuous batching over one model.

    `submit`, `cancel`, `finish_choice` and `stop` may be called from any thread and return at once. Sinks are called on
    the thread of `run`. Every submission ends in its sink exactly once: finished, failed or cancelled.

    `run` belongs on the thread that loaded the model, and no other may have touched torch. Each thread that does gets
    a pool of OpenMP workers, and with more workers than cores libgomp no longer spins at its barriers but sleeps: two
    pools on two cores made a pass over SmolLM2-135M 1.6 times slower for 1 sequence and 1.4 times for 32.

    Args:
        max_queue_size: requests that may wait for a place in the batch.
        speculative_tokens: tokens of drafts in a pass, at the most.

    Attributes:
        observers: told what happens; to be filled before `run`.
        on_output: called on the engine thread when it is time to read what sinks have been told: after each pass, but
            while a device works by itself on the next one, because what reads it wants Python's lock, too.
    """

    def __init__(
        self,
        runner: Runner,
        sampler: TokenSampler,
        scheduler: Scheduler,
        limits: ModelLimits,
        *,
        max_queue_size: int,
        speculative_tokens: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.limits = limits
        self.observers: list[Observer] = []
        self.on_output: Callable[[], None] = _nothing
        self._runner = runner
        self._sampler = sampler
        self._drafter = Drafter(scheduler.pool, min(1 + speculative_tokens, scheduler.max_batch_tokens))
        self._max_queue_size = max_queue_size
        self._open: dict[Submission, set[int]] = {}  # choices that have not ended
        self._deadlines: dict[Submission, float] = {}
        self._inbox: list[Submission | _Cancel | _FinishChoice] = []
        self._wake = Condition()
        self._stopping: UnavailableError | None = None
        self._pass_began: float | None = None

    def pulse(self) -> Pulse:
        """How the engine is right now. Any thread; waits for nothing that could be stuck."""
        began = self._pass_began
        return Pulse(is_serving=self._stopping is None, pass_seconds=0.0 if began is None else monotonic() - began)

    def stop(self) -> None:
        """Refuse what comes from now on; `run` fails what is left and returns after its current pass."""
        with self._wake:
            self._stopping = self._stopping or UnavailableError("The model is being unloaded.")
            self._wake.notify()

    def check(self, request: GenerationRequest) -> None:
        """Refuse a request that could never be served.

        Raises:
            ContextLengthError: the prompt leaves no room for a token.
            InvalidRequestError: it asks for more choices than may ever wait, or for tokens that do not exist.
        """
        if request.sampling.n > self._max_queue_size:
            raise InvalidRequestError(f"n must be at most {self._max_queue_size}.", param="n")
        self.limits.check(request)

    def submit(self, submission: Submission) -> None:
        """Take a request in; from here on its sink will be told how it ends.

        Raises:
            InvalidRequestError: it could never be served; see `check`.
            OverloadedError: too many requests wait already.
            UnavailableError: the engine is stopping, or has died.
        """
        self.check(submission.request)
        with self._wake:
            if self._stopping is not None:
                raise self._stopping
            arrived = sum(item.request.sampling.n for item in self._inbox if isinstance(item, Submission))
            waiting = len(self.scheduler.waiting) + arrived
            if waiting + submission.request.sampling.n > self._max_queue_size:
                raise OverloadedError(
                    f"{waiting} requests are waiting for this model already; try again later.",
                    code="server_overloaded",
                )
            if submission.request.sampling.timeout is not None:
                self._deadlines[submission] = monotonic() + submission.request.sampling.timeout
            self._inbox.append(submission)
            self._wake.notify()

    def cancel(self, submission: Submission) -> None:
        """Stop working on a request. Its sink gets `cancelled`, unless it ended before."""
        self._post(_Cancel(submission))

    def finish_choice(self, submission: Submission, index: int) -> None:
        """Stop working on one choice, whose end the caller has found itself; its sink is not told."""
        self._post(_FinishChoice(submission, index))

    @property
    def load(self) -> Load:
        """How busy it is; on any thread, and not more exact than a look while it works can be."""
        scheduler, pool = self.scheduler, self.scheduler.pool
        arrived = sum(item.request.sampling.n for item in list(self._inbox) if isinstance(item, Submission))
        return Load(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting) + arrived,
            num_blocks=pool.num_blocks,
            num_used_blocks=pool.num_blocks - pool.num_free,
            block_size=pool.block_size,
            num_preemptions=scheduler.num_preemptions,
            num_queried_tokens=scheduler.num_queried_tokens,
            num_hit_tokens=scheduler.num_hit_tokens,
            num_drafted_tokens=self._drafter.num_drafted,
            num_accepted_tokens=self._drafter.num_accepted,
        )

    def run(self) -> None:
        """Serve until `stop`, or until it cannot go on. Never raises.

        It cannot after something that is no `Exception`, after an error that the device does not recover from, and
        when one pass after the other fails. `pulse` tells of it, and the process is to be replaced.
        """
        num_failed = 0
        try:
            while self._wait_for_work():
                self._pass_began = monotonic()
                try:
                    self.step()
                    num_failed = 0
                except Exception as error:
                    log.exception("a forward pass failed; the requests in it fail with it")
                    self._fail_open(self._failure(error))
                    num_failed += 1
                    if num_failed == _MAX_FAILED_PASSES or self._runner.is_beyond_repair(error):
                        raise
                finally:
                    self._pass_began = None
        except BaseException:
            log.critical("the engine has died", exc_info=True)
        finally:
            # Nobody may be left waiting, whatever the thread died of.
            with self._wake:
                self._stopping = self._stopping or UnavailableError("The engine has died.")
            self._take_inbox()
            self._fail_open(self._stopping)

    def step(self) -> None:
        """Take what has come in, run one pass, hand out its tokens."""
        self._take_inbox()
        self._drop_late()
        started = monotonic()
        chunks = self.scheduler.schedule()
        if not chunks:
            self.on_output()
            return
        drafts = self._drafter.draft(chunks)
        rows = [chunk for chunk in chunks if chunk.is_last] + drafts
        logits = self._runner.forward(chunks + drafts)
        drawing = self._sampler.start(logits, [row.sequence for row in rows]) if rows else list
        self.on_output()
        drawn = list(zip(rows, drawing(), strict=True))
        num_sequences, num_tokens = len(chunks), sum(chunk.num_tokens for chunk in chunks) + len(drafts)
        is_decode = num_tokens == len(rows) == num_sequences + len(drafts)
        if drafts:  # and so no prompts: every chunk is a row
            drawn = self._drafter.accepted(drawn)
            chunks = [row for row, _ in drawn]
        self.scheduler.complete(chunks, monotonic() - started)
        num_drawn = self._deliver(drawn)
        if not (self._runner.returns_early and self.scheduler.running):
            self.on_output()
        ended = Pass(monotonic() - started, num_sequences, num_tokens, num_drawn, is_decode)
        for observer in self.observers:
            observer.pass_ended(ended)

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._stopping or self._inbox or self.scheduler.running or self.scheduler.waiting):
                self._wake.wait()
            return self._stopping is None

    def _post(self, command: _Cancel | _FinishChoice) -> None:
        with self._wake:
            self._inbox.append(command)
            self._wake.notify()

    def _take_inbox(self) -> None:
        with self._wake:
            inbox, self._inbox = self._inbox, []
        for item in inbox:
            match item:
                case Submission() as submission:
                    self._admit(submission)
                case _Cancel(submission) if submission in self._open:
                    self._drop(submission, "cancelled")
                    submission.sink.cancelled()
                case _FinishChoice(submission, index) if index in self._open.get(submission, ()):
                    self._remove_choice(submission, index, "stop")

    def _drop_late(self) -> None:
        if not self._deadlines:
            return
        with self._wake:  # submit adds to them on other threads
            now = monotonic()
            late = [submission for submission, deadline in self._deadlines.items() if deadline <= now]
        for submission in late:
            if submission in self._open:
                timeout = submission.request.sampling.timeout
                assert timeout is not None
                self._drop(submission, "timeout")
                submission.sink.failed(DeadlineError(timeout))

    def _admit(self, submission: Submission) -> None:
        request = submission.request
        self._open[submission] = set(range(request.sampling.n))
        submission.timeline.num_choices = request.sampling.n
        submission.timeline.num_prompt_tokens = len(request.prompt_token_ids)
        for sequence in self.limits.sequences(submission):
            self.scheduler.add(sequence)

    def _deliver(self, drawn: list[tuple[Chunk, Draw | GenerationError]]) -> int:
        """Hand tokens out, and end what ends with them; returns how many there were."""
        num_tokens = 0
        for chunk, draw in drawn:
            sequence = chunk.owner
            submission = sequence.submission
            if sequence.index not in self._open.get(submission, ()):  # it or another choice has just ended
                continue
            if isinstance(draw, GenerationError):
                log.error("a request fails, the others in its pass go on: %s", draw)
                self._drop(submission, draw.kind)
                submission.sink.failed(draw)
                continue
            if sequence.index == 0 and sequence.num_generated == 0:
                submission.sink.prompt_reused(sequence.num_reused or 0)
            num_tokens += 1
            self._note_token(submission.timeline)
            reason = sequence.append(draw.token_id)
            logprobs = None if draw.logprobs is None else [draw.logprobs]
            submission.sink.tokens(sequence.index, [draw.token_id], reason, logprobs)
            if reason:
                self._remove_choice(submission, sequence.index, reason)
        return num_tokens

    def _note_token(self, timeline: Timeline) -> None:
        timeline.num_generated += 1
        if timeline.first_token is None:
            timeline.first_token = monotonic()
            for observer in self.observers:
                observer.first_token(timeline)

    def _remove_choice(self, submission: Submission, index: int, reason: FinishReason) -> None:
        self.scheduler.remove(lambda sequence: sequence.submission is submission and sequence.index == index)
        self._open[submission].remove(index)
        if not self._open[submission]:
            self._forget(submission, reason)

    def _drop(self, submission: Submission, outcome: Outcome) -> None:
        self.scheduler.remove(lambda sequence: sequence.submission is submission)
        self._forget(submission, outcome)

    def _forget(self, submission: Submission, outcome: Outcome) -> None:
        del self._open[submission]
        submission.timeline.ended = monotonic()
        submission.timeline.outcome = outcome
        for observer in self.observers:
            observer.request_ended(submission.timeline)
        if submission.request.sampling.timeout is not None:
            with self._wake:
                del self._deadlines[submission]

    def _failure(self, error: Exception) -> GenerationError:
        """What a failed pass means for the requests in it."""
        if self._runner.is_out_of_memory(error):
            return UnavailableError("The model ran out of memory while it worked on this request. Please try again.")
        return EngineError("The model failed while it worked on this request.")

    def _fail_open(self, error: GenerationError) -> None:
        for submission in list(self._open):
            self._drop(submission, error.kind)
            submission.sink.failed(error)
        self.on_output()


def _nothing() -> None:
    pass
