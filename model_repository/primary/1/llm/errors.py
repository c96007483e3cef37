"""What the engine can refuse or fail with: one tree, each class knows its kind.

The kinds are those of docs/tensor-contract.md; the proxy turns a kind into an HTTP status.
"""

from typing import ClassVar, Literal

ErrorKind = Literal["invalid_request", "overloaded", "unavailable", "timeout", "internal"]


class ConfigError(Exception):
    """A setting that cannot be used; the message names key, value and fix in one line."""


class ModelLoadError(Exception):
    """A model that cannot be served; the message says why and what to do in one line."""


class GenerationError(Exception):
    """A request that got no answer, or only part of one.

    Attributes:
        kind: the family of the failure, see docs/tensor-contract.md.
        code: OpenAI's error code, or None.
        param: the request field at fault, or None.
    """

    kind: ClassVar[ErrorKind] = "internal"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class InvalidRequestError(GenerationError):
    """The request itself is at fault; sending it again gives the same refusal."""

    kind = "invalid_request"


class ContextLengthError(InvalidRequestError):
    """The prompt leaves no room for a single new token.

    Args:
        is_exact: whether `prompt_tokens` has been counted, or is the least that the prompt can have.
    """

    def __init__(self, prompt_tokens: int, max_model_len: int, *, is_exact: bool = True) -> None:
        at_least = "" if is_exact else "at least "
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens, but the prompt has "
            f"{at_least}{prompt_tokens} tokens, which leaves no room for an answer. Shorten the messages.",
            code="context_length_exceeded",
            param="messages",
        )


class OverloadedError(GenerationError):
    """The waiting queue is full; the same request may succeed later."""

    kind = "overloaded"


class UnavailableError(GenerationError):
    """The engine is stopping, has died or has no memory left; the same request may succeed later."""

    kind = "unavailable"


class DeadlineError(GenerationError):
    """The request's own deadline has passed."""

    kind = "timeout"

    def __init__(self, timeout: float) -> None:
        super().__init__(f"The answer took longer than {timeout:g} seconds.", code="deadline_exceeded", param="timeout")


class EngineError(GenerationError):
    """The engine failed while it worked on the request. Details are in the log, not in the message."""

    kind = "internal"
