"""Whatever a request raises, ours or Sanic's, becomes OpenAI's error body here."""

from __future__ import annotations

import logging

import msgspec
from sanic import HTTPResponse, Request, raw
from sanic import exceptions as sanic_errors

from proxy import errors
from proxy.context import App, context
from proxy.request_id import request_id

_log = logging.getLogger(__name__)

# Sanic's errors that are the client's doing; every other one is ours.
_FOREIGN: dict[type[sanic_errors.SanicException], type[errors.ApiError]] = {
    sanic_errors.NotFound: errors.NotFoundError,
    sanic_errors.MethodNotAllowed: errors.MethodNotAllowedError,
    sanic_errors.PayloadTooLarge: errors.PayloadTooLargeError,
    sanic_errors.RequestTimeout: errors.RequestTimeoutError,
    sanic_errors.ExpectationFailed: errors.ExpectationFailedError,
    sanic_errors.BadRequest: errors.InvalidRequestError,
    sanic_errors.ServiceUnavailable: errors.UnavailableError,
}


def install(app: App) -> None:
    """Make `app` answer every failure on every route with an OpenAI error body."""
    app.exception(Exception)(answer)
    app.exception(sanic_errors.MethodNotAllowed)(_other_method)
    app.error_handler.add(sanic_errors.RequestCancelled, _nobody_listens)


def answer(request: Request, exception: Exception) -> HTTPResponse:
    """Build the response to a request that failed. Internals go to the log, never to the client."""
    error = translate(request, exception)
    context(request).meter.told(error)
    if isinstance(error, errors.InternalError):
        cause = exception if exception is not error else exception.__cause__
        _log.error("request %s failed: %s", request_id(request), error.message, exc_info=cause or exception)
    elif error.status >= 500:
        _log.warning("request %s answered %d: %s", request_id(request), error.status, error.message)
    return raw(
        msgspec.json.encode(errors.describe(error)),
        status=error.status,
        headers=error.headers,
        content_type="application/json",
    )


def translate(request: Request, exception: Exception) -> errors.ApiError:
    """Return the error of our own tree that `exception` stands for."""
    if isinstance(exception, errors.ApiError):
        return exception
    if isinstance(exception, sanic_errors.SanicException):
        for foreign, ours in _FOREIGN.items():
            if isinstance(exception, foreign):
                return ours(_message(request, exception), headers=_headers(exception))
    return errors.InternalError("The server had an error while processing your request.")


def _message(request: Request, exception: sanic_errors.SanicException) -> str:
    if isinstance(exception, sanic_errors.NotFound):
        return f"Unknown request URL: {request.method} {request.path}."
    if isinstance(exception, sanic_errors.MethodNotAllowed):
        return f"Not allowed: {request.method} {request.path}."
    return f"{exception}."


def _headers(exception: sanic_errors.SanicException) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in exception.headers.items()}


def _other_method(request: Request, exception: sanic_errors.MethodNotAllowed) -> HTTPResponse:
    """Answer OPTIONS with the methods a route has. There are no CORS headers: browsers' pages stay out."""
    if request.method == "OPTIONS":
        return HTTPResponse(status=204, headers=_headers(exception))
    return answer(request, exception)


def _nobody_listens(_request: Request, _exception: BaseException) -> HTTPResponse:
    """Answer a client that has left; Sanic wants a response, which goes nowhere."""
    return raw(b"", status=499)
