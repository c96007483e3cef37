"""Every way in which a request can fail, and the one place where error bodies are built.

Each class fixes the HTTP status and OpenAI's `type`; handlers and the Triton client raise, and nobody else
formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import ClassVar

import msgspec

# The engine's codes that say more than the class.
_CODES = frozenset({"context_length_exceeded", "deadline_exceeded"})
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class ApiError(Exception):
    """A failure that the client is told about; `message` is a sentence for a person.

    `param` is the plain name of the offending request field, `code` OpenAI's machine-readable reason.
    `retry_after` is in seconds and becomes the Retry-After header.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    default_retry_after: ClassVar[int | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        retry_after = retry_after if retry_after is not None else self.default_retry_after
        self.headers: dict[str, str] = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)

    @property
    def reason(self) -> str:
        """One of few words for the failure: a code that we know, else the class's name."""
        if self.code in _CODES:
            return self.code
        return _CAPITAL.sub("_", type(self).__name__.removesuffix("Error")).lower()


class InvalidRequestError(ApiError):
    """The request itself is wrong; sending it again will not help."""

    status = 400
    type = "invalid_request_error"


def require_at_most(most: int, count: int, what: str, param: str) -> None:
    """Refuse a request whose field `param` holds more of something than is taken.

    Raises:
        InvalidRequestError: it does.
    """
    if count > most:
        raise InvalidRequestError(f"'{param}' holds {count} {what}, but at most {most} are taken.", param=param)


class AuthenticationError(InvalidRequestError):
    """No API key, or not one of ours."""

    status = 401
    default_code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class ForeignPageError(InvalidRequestError):
    """A web page asks that may not."""

    status = 403
    default_code = "origin_not_allowed"


class NotFoundError(InvalidRequestError):
    """No such route."""

    status = 404


class ModelNotFoundError(NotFoundError):
    """No consumer group has this name."""

    default_code = "model_not_found"


class MethodNotAllowedError(InvalidRequestError):
    """The route exists, but not for this method."""

    status = 405


class RequestTimeoutError(InvalidRequestError):
    """The client did not send its whole request in time."""

    status = 408


class PayloadTooLargeError(InvalidRequestError):
    """The body or the header is larger than configured."""

    status = 413


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body says that it is not JSON."""

    status = 415


class ExpectationFailedError(InvalidRequestError):
    """An `Expect` header other than 100-continue."""

    status = 417


class OverloadedError(ApiError):
    """The engine takes no more requests at the moment."""

    status = 429
    type = "rate_limit_error"
    default_code = "server_overloaded"
    default_retry_after = 1


class RateLimitError(ApiError):
    """The API key has had its share."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class InternalError(ApiError):
    """Our own fault. The message must not tell about internals."""


class UnavailableError(ApiError):
    """The group or all of Triton cannot answer now, but may soon."""

    status = 503
    default_retry_after = 2


class ProcessDeadError(UnavailableError):
    """The group's process gave Triton no heartbeat for a second: most likely it has died."""


class NeverSeenError(UnavailableError):
    """The request has reached no model, so that it is safe to send it again."""


class DeadlineError(ApiError):
    """The answer took longer than the deadline allows."""

    status = 504


def every_reason() -> Iterator[tuple[str, int]]:
    """Each reason there can be, with its status."""
    kinds = ApiError.__subclasses__()
    for kind in kinds:
        kinds += kind.__subclasses__()
        yield kind("").reason, kind.status
    for kind, code in ((InvalidRequestError, "context_length_exceeded"), (DeadlineError, "deadline_exceeded")):
        yield code, kind.status


class Naming:
    """Within its block, errors name the client's fields instead of the engine's: `{engine's: client's}`."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        """Leave it to the end."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ApiError) and (theirs := error.param or "") in self._fields:
            error.param = self._fields[theirs]
            error.message = re.sub(rf"^{theirs}\b", f"'{error.param}'", error.message)


class ErrorDetail(msgspec.Struct):
    """What went wrong: for people, and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`."""

    error: ErrorDetail


def describe(error: ApiError) -> ErrorBody:
    """Build the body of `error`. What cannot be UTF-8, bytes from a client's header for one, is replaced."""
    message = error.message.encode(errors="replace").decode()
    return ErrorBody(ErrorDetail(message, error.type, error.param, error.code))


_KINDS: dict[str, type[ApiError]] = {
    "invalid_request": InvalidRequestError,
    "overloaded": OverloadedError,
    "unavailable": UnavailableError,
    "timeout": DeadlineError,
    "internal": InternalError,
}


def from_kind(kind: str, message: str, *, code: str | None, param: str | None) -> ApiError:
    """Turn the engine's typed failure (docs/tensor-contract.md) into an error of this tree."""
    return _KINDS.get(kind, InternalError)(message, code=code, param=param)
