"""What a caller asks of the engine and what the engine answers with. Immutable, shared between threads."""

from dataclasses import dataclass
from typing import Literal, Protocol

from llm.errors import GenerationError, InvalidRequestError

FinishReason = Literal["stop", "length"]


# Every token's text is searched for each of them on the thread that serves all requests.
MAX_STOP_STRINGS = 64


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the answer is drawn from the model's distribution.

    Attributes:
        temperature: 0 takes the most likely token (greedy); None takes the model's own default.
        top_p: nucleus mass, over 0 to 1; None takes the model's own default.
        top_k: keep the k most likely tokens, 0 keeps all; None takes the model's own default.
        max_tokens: new tokens at the most; None or more than fits: what the context leaves.
        stop: strings that end the answer and are not part of it.
        seed: None draws a fresh one; choice i of a request derives its own from it.
        n: choices to generate.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1

    def __post_init__(self) -> None:
        _require(self.temperature is None or 0 <= self.temperature <= 2, "temperature", "from 0 to 2")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", "over 0 and at most 1")
        _require(self.top_k is None or self.top_k >= 0, "top_k", "0 or more, where 0 keeps every token")
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "1 or more")
        _require(len(self.stop) <= MAX_STOP_STRINGS, "stop", f"at most {MAX_STOP_STRINGS} strings")
        _require(all(self.stop), "stop", "without empty strings")
        _require(self.n >= 1, "n", "1 or more")


def _require(holds: bool, param: str, rule: str) -> None:
    if not holds:
        raise InvalidRequestError(f"{param} must be {rule}.", param=param)


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt in token ids, and how to go on from it."""

    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams


class Sink(Protocol):
    """Where the engine puts what it has made. Called on the engine thread; must never block.

    Each choice gets any number of `tokens` calls, the last one with a finish reason. Instead of what is left of
    these, a request gets one `failed` or one `cancelled`, after which nothing follows.
    """

    def prompt_reused(self, num_tokens: int) -> None:
        """How many tokens of the prompt were in the cache already. Once, before the first token of choice 0."""

    def tokens(self, index: int, token_ids: list[int], finish_reason: FinishReason | None) -> None:
        """New tokens of choice `index`. With "stop" the last one is the end token, which has no text."""

    def failed(self, error: GenerationError) -> None:
        """The request ends here, unanswered."""

    def cancelled(self) -> None:
        """The caller's cancellation has been carried out."""


@dataclass(eq=False)
class Submission:
    """One request in the engine's hands; its identity is the handle for cancelling."""

    request: GenerationRequest
    sink: Sink
