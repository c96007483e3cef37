"""What a caller asks of the engine and what the engine answers with. Immutable, shared between threads."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llm.errors import GenerationError, InvalidRequestError
from llm.observer import Timeline

if TYPE_CHECKING:
    import numpy as np

FinishReason = Literal["stop", "length"]


# Every token's text is searched for each of them on the thread that serves all requests.
MAX_STOP_STRINGS = 64
MAX_STOP_TOKENS = 64
MAX_BIASES = 1024
MAX_LOGPROBS = 20


class TokenConstraint(Protocol):
    """Which tokens one choice may draw next. Used on the engine thread."""

    @property
    def must_end(self) -> bool:
        """Whether nothing but an end token may follow."""

    def fill(self, mask: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        """Set bit i % 32 of word i // 32 of `mask` `[words]` for each token i that may be drawn, and no other.

        Raises:
            GenerationError: it cannot be told; the choice's request ends with this.
        """

    def advance(self, token_id: int) -> None:
        """Take note of the token that was drawn."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the answer is drawn from the model's distribution.

    Attributes:
        temperature: 0 takes the most likely token (greedy); None takes the model's own default.
        top_p: nucleus mass, over 0 to 1; None takes the model's own default.
        top_k: keep the k most likely tokens, 0 keeps all; None takes the model's own default.
        min_p: drop tokens less likely than this share of the most likely one, after the temperature.
        repetition_penalty: divides the logits over 0, and multiplies those under 0, of tokens in prompt and answer.
        presence_penalty: taken off the logit of each token of the answer.
        frequency_penalty: taken off the logit once for each time the token stands in the answer.
        logit_bias: added to the logits of these tokens.
        max_tokens: new tokens at the most; None or more than fits: what the context leaves.
        min_tokens: new tokens before an end token may be drawn or a stop string counts.
        stop: strings that end the answer and are not part of it.
        stop_token_ids: tokens that end the answer, as the model's own end tokens do.
        ignore_eos: the model's own end tokens are tokens like any other.
        seed: None draws a fresh one; choice i of a request derives its own from it.
        n: choices to generate.
        logprobs: report each token's log probability and this many of the most likely ones'; None reports nothing.
        timeout: seconds from the request's arrival after which it fails.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        _require(self.temperature is None or 0 <= self.temperature <= 2, "temperature", "from 0 to 2")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", "over 0 and at most 1")
        _require(self.top_k is None or self.top_k >= 0, "top_k", "0 or more, where 0 keeps every token")
        _require(0 <= self.min_p <= 1, "min_p", "from 0 to 1")
        _require(0 < self.repetition_penalty <= 10, "repetition_penalty", "over 0 and at most 10")
        _require(-2 <= self.presence_penalty <= 2, "presence_penalty", "from -2 to 2")
        _require(-2 <= self.frequency_penalty <= 2, "frequency_penalty", "from -2 to 2")
        _require(all(-100 <= bias <= 100 for _, bias in self.logit_bias), "logit_bias", "of biases from -100 to 100")
        _require(len(self.logit_bias) <= MAX_BIASES, "logit_bias", f"of at most {MAX_BIASES} tokens")
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "1 or more")
        _require(self.min_tokens >= 0, "min_tokens", "0 or more")
        _require(self.max_tokens is None or self.min_tokens <= self.max_tokens, "min_tokens", "at most max_tokens")
        _require(len(self.stop) <= MAX_STOP_STRINGS, "stop", f"at most {MAX_STOP_STRINGS} strings")
        _require(all(self.stop), "stop", "without empty strings")
        _require(len(self.stop_token_ids) <= MAX_STOP_TOKENS, "stop_token_ids", f"at most {MAX_STOP_TOKENS} tokens")
        _require(self.n >= 1, "n", "1 or more")
        _require(self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, "logprobs", f"0 to {MAX_LOGPROBS}")
        _require(self.timeout is None or 0 < self.timeout < float("inf"), "timeout", "more than 0 seconds")


def _require(holds: bool, param: str, rule: str) -> None:
    if not holds:
        raise InvalidRequestError(f"{param} must be {rule}.", param=param)


@dataclass(frozen=True)
class TokenLogprobs:
    """A token that was drawn, by the model's own distribution, before any setting of the request.

    Attributes:
        logprob: of `token_id`.
        top: the most likely tokens with their log probabilities, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt in token ids, and how to go on from it.

    Attributes:
        constraints: what each choice is held to; empty: nothing.
    """

    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    constraints: tuple[TokenConstraint, ...] = ()


class Sink(Protocol):
    """Where the engine puts what it has made. Called on the engine thread; must never block.

    Each choice gets any number of `tokens` calls, the last one with a finish reason. Instead of what is left of
    these, a request gets one `failed` or one `cancelled`, after which nothing follows.
    """

    def prompt_reused(self, num_tokens: int) -> None:
        """How many tokens of the prompt were in the cache already. Once, before the first token of choice 0."""

    def tokens(
        self,
        index: int,
        token_ids: list[int],
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> None:
        """New tokens of choice `index`. With "stop" the last one is an end token, which has no text.

        `logprobs` has an entry for each of them if the request asked for that.
        """

    def failed(self, error: GenerationError) -> None:
        """The request ends here, unanswered."""

    def cancelled(self) -> None:
        """The caller's cancellation has been carried out."""


@dataclass(eq=False)
class Submission:
    """One request in the engine's hands; its identity is the handle for cancelling.

    Attributes:
        timeline: kept by the engine; complete when the sink has been told the end.
    """

    request: GenerationRequest
    sink: Sink
    timeline: Timeline = field(default_factory=Timeline)
