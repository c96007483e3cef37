"""The one place where failures of gRPC and Triton become ours. Their own words go to the log, not to clients."""

from __future__ import annotations

from tritonclient.utils import InferenceServerException

from proxy.errors import (
    ApiError,
    DeadlineError,
    InternalError,
    NeverSeenError,
    ProcessDeadError,
    UnavailableError,
)


def translate(error: Exception, url: str) -> ApiError:
    """Map a failure of gRPC or Triton to ours. Triton reports a model's failure as text without a status."""
    if isinstance(error, InferenceServerException):
        status, message = str(error.status() or ""), str(error.message() or "")
    else:
        status, message = str(getattr(error, "code", str)()), str(getattr(error, "details", str)())
    match status.removeprefix("StatusCode."):
        case "UNAVAILABLE":
            if "refused" in message:
                return NeverSeenError(f"The inference server at {url} cannot be reached. Please try again.")
            if "onnect" in message or "resolution" in message or "ocket" in message:
                return UnavailableError(f"The inference server at {url} cannot be reached. Please try again.")
            return UnavailableError("The inference server is not available. Please try again.")
        case "NOT_FOUND":
            return NeverSeenError("The group is not loaded. Please try again.")
        case "DEADLINE_EXCEEDED":
            return DeadlineError("The inference server did not answer in time.")
        case "CANCELLED":
            return UnavailableError("The inference server dropped the request. Please try again.")
        case "RESOURCE_EXHAUSTED":
            return InternalError("A message between proxy and inference server is too large.")
        case _:
            return _translate_text(message)


# What Triton says, without a status, about a model that is away: unloaded or loading. It has not seen the request.
_AWAY = (
    "unknown model",
    "is not found",
    "is not ready",
    "is not at ready state",
    "no available",
)


def _translate_text(message: str) -> ApiError:
    if "is not healthy" in message:
        return ProcessDeadError("The group's process has died and is replaced. Please try again.")
    if any(words in message for words in _AWAY):
        return NeverSeenError("The group is not loaded. Please try again.")
    return InternalError("The inference server failed.")
