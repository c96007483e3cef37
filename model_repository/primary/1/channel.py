"""Where one request's tokens wait for the responder. Filled by the engine thread, emptied by the responder's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, Protocol

from answer import Answer
from event import Event
from llm.errors import GenerationError
from llm.request import FinishReason, Submission, TokenLogprobs


class Writer(Protocol):
    """One request's way back to its client."""

    def send(self, events: list[Event], *, is_final: bool) -> None:
        """Send one response; without events it must be the final one."""

    def acknowledge(self) -> None:
        """Send an empty response if the client has asked for one as soon as its request is taken."""

    def is_cancelled(self) -> bool:
        """Whether the client has left."""


@dataclass(frozen=True)
class Address:
    """Where the client wants an answer's pieces: in the bundle of this name, as those of this recipient."""

    bundle: str
    recipient: int


@dataclass
class Pile:
    """What came since the last look: tokens, their log probabilities and the finish reason of each choice.

    Attributes:
        early_end: how the request ended before its time.
    """

    tokens: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    finish_reasons: dict[int, FinishReason] = field(default_factory=dict)
    num_reused: int | None = None
    early_end: GenerationError | Literal["cancelled"] | None = None


class Channel:
    """The engine's sink for one request. Only the sink's methods may be called off the responder thread.

    Attributes:
        unsent: events that wait for company: all of them if the answer is not streamed.
        address: where pieces before the last go if such a bundle is open; None: out by `writer`, like the last.
        num_bundled: pieces that have gone there.
    """

    submission: Submission
    answer: Answer

    def __init__(
        self,
        writer: Writer,
        *,
        is_stream: bool,
        notify: Callable[["Channel"], None],
        address: Address | None = None,
    ) -> None:
        self.writer = writer
        self.address = address
        self.num_bundled = 0
        self.is_stream = is_stream
        self.is_closed = False
        self.unsent: list[Event] = []
        self._notify = notify
        self._lock = Lock()
        self._pile: Pile | None = None

    def prompt_reused(self, num_tokens: int) -> None:
        """See `llm.request.Sink`."""
        with self._lock:
            self._open_pile().num_reused = num_tokens

    def tokens(
        self,
        index: int,
        token_ids: list[int],
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> None:
        """See `llm.request.Sink`."""
        with self._lock:
            pile = self._open_pile()
            pile.tokens.setdefault(index, []).extend(token_ids)
            if logprobs:
                pile.logprobs.setdefault(index, []).extend(logprobs)
            if finish_reason:
                pile.finish_reasons[index] = finish_reason

    def failed(self, error: GenerationError) -> None:
        """See `llm.request.Sink`."""
        with self._lock:
            self._open_pile().early_end = error

    def cancelled(self) -> None:
        """See `llm.request.Sink`."""
        with self._lock:
            self._open_pile().early_end = "cancelled"

    def take(self) -> Pile:
        """Everything since the last call."""
        with self._lock:
            pile, self._pile = self._pile, None
        return pile or Pile()

    def _open_pile(self) -> Pile:
        # Only a new pile needs a look; what joins it goes out with it.
        if self._pile is None:
            self._pile = Pile()
            self._notify(self)
        return self._pile
