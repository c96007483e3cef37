"""One request's way from the engine to the responder: what the engine thread notes, the responder's piles up."""

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Tokens:
    """New tokens of a choice; see `llm.request.Sink.tokens`."""

    index: int
    token_ids: list[int]
    finish_reason: FinishReason | None
    logprobs: list[TokenLogprobs] | None


@dataclass(frozen=True, slots=True)
class Reused:
    """How many tokens of the prompt were in the cache."""

    num_tokens: int


@dataclass(frozen=True, slots=True)
class EarlyEnd:
    """How a request ended before its time."""

    cause: GenerationError | Literal["cancelled"]


# What the engine says of a request.
Note = Tokens | Reused | EarlyEnd


@dataclass(slots=True)
class Pile:
    """What came for a request since the last look: the new tokens of each choice together."""

    choices: dict[int, Tokens] = field(default_factory=dict)
    num_reused: int | None = None
    early_end: GenerationError | Literal["cancelled"] | None = None

    def add(self, note: Note) -> None:
        """Put a note on it."""
        if isinstance(note, Tokens):
            if earlier := self.choices.get(note.index):
                earlier.token_ids += note.token_ids
                earlier.finish_reason = note.finish_reason
                if note.logprobs:
                    earlier.logprobs = (earlier.logprobs or []) + note.logprobs
            else:
                self.choices[note.index] = note
        elif isinstance(note, Reused):
            self.num_reused = note.num_tokens
        else:
            self.early_end = note.cause


class Channel:
    """The engine's sink for one request; all but the sink's methods is the responder thread's.

    Args:
        post: takes a note to the responder.

    Attributes:
        pile: what has come, and not been looked at.
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
        post: Callable[[tuple["Channel", Note]], None],
        address: Address | None = None,
    ) -> None:
        self.writer = writer
        self.address = address
        self.num_bundled = 0
        self.is_stream = is_stream
        self.is_closed = False
        self.pile = Pile()
        self.unsent: list[Event] = []
        self._post = post

    def prompt_reused(self, num_tokens: int) -> None:
        """See `llm.request.Sink`."""
        self._post((self, Reused(num_tokens)))

    def tokens(
        self,
        index: int,
        token_ids: list[int],
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> None:
        """See `llm.request.Sink`; the lists become the responder's."""
        self._post((self, Tokens(index, token_ids, finish_reason, logprobs)))

    def failed(self, error: GenerationError) -> None:
        """See `llm.request.Sink`."""
        self._post((self, EarlyEnd(error)))

    def cancelled(self) -> None:
        """See `llm.request.Sink`."""
        self._post((self, EarlyEnd("cancelled")))

    def take(self) -> Pile:
        """Everything since the last call."""
        pile, self.pile = self.pile, Pile()
        return pile
