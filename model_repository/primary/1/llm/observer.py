"""What the engine says about its own work: plain counts and times, to whoever listens. Knows no monitoring system."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

Outcome = Literal["stop", "length", "cancelled", "overloaded", "unavailable", "timeout", "invalid_request", "internal"]


@dataclass(eq=False)
class Timeline:
    """When a request passed each station, in seconds of the monotonic clock, and what it took. Engine thread.

    Attributes:
        request_id: the caller's name for it; nothing to the engine.
        trace: the caller's W3C trace context; nothing to the engine either.
        scheduled: when it first had a place in the batch.
        first_token: when its first token was drawn.
        ended: when its last choice had ended, whatever the reason.
        outcome: how it ended; with several choices how the last of them did.
        num_reused: tokens of the prompt that were in the cache.
        num_generated: tokens drawn for all its choices; one that a stop string has ended may be one ahead.
    """

    arrived: float = field(default_factory=monotonic)
    request_id: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)
    scheduled: float | None = None
    first_token: float | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    num_choices: int = 1
    num_prompt_tokens: int = 0
    num_reused: int = 0
    num_generated: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the model, sampling and delivery included.

    Attributes:
        is_decode: it computed one token for each of its sequences, and no prompt.
        num_drawn: tokens that it drew.
    """

    seconds: float
    num_sequences: int
    num_tokens: int
    num_drawn: int
    is_decode: bool


@dataclass(frozen=True)
class Load:
    """What the engine holds right now, and what its scheduler has counted since the start. Counts are of sequences.

    Attributes:
        num_used_blocks: blocks of the cache that some sequence holds.
        num_queried_tokens: tokens of prompts that were looked up in the cache.
        num_hit_tokens: those of them that were there.
        num_drafted_tokens: tokens that were computed before they were drawn.
        num_accepted_tokens: those of them that were drawn.
    """

    num_running: int
    num_waiting: int
    num_blocks: int
    num_used_blocks: int
    block_size: int
    num_preemptions: int
    num_queried_tokens: int
    num_hit_tokens: int
    num_drafted_tokens: int
    num_accepted_tokens: int


class Observer:
    """Told what the engine does, on the engine's thread: must be quick and must not raise. This one does nothing."""

    def pass_ended(self, ended: Pass) -> None:
        """A pass has ended."""

    def first_token(self, timeline: Timeline) -> None:
        """A request has got its first token."""

    def request_ended(self, timeline: Timeline) -> None:
        """A request that the engine had taken in has ended."""
