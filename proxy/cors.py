"""Which web pages may read our answers: none, unless their origins are configured.

https://fetch.spec.whatwg.org/#http-cors-protocol. Credentials are never allowed: keys travel in a header of their own.
"""

from __future__ import annotations

from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

_METHODS = "GET, HEAD, POST, OPTIONS"
_MAX_AGE = "600"
_EXPOSED = (
    "x-request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests"
)


class Cors:
    """Adds the headers that let pages of the given origins in; `*` lets all pages in."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = frozenset(origins)

    def preflight(self, request: Request) -> HTTPResponse | None:
        """Answer a browser's question whether it may send a request, which carries no key yet."""
        asked = request.headers.getone("access-control-request-method", "")
        if request.method != "OPTIONS" or not asked or self._allowed(request) is None:
            return None
        headers = {"access-control-allow-methods": _METHODS, "access-control-max-age": _MAX_AGE}
        if wanted := request.headers.getone("access-control-request-headers", ""):
            headers["access-control-allow-headers"] = wanted
        return HTTPResponse(status=204, headers=headers)

    def mark(self, request: Request, response: BaseHTTPResponse) -> None:
        """Let the page that asked read the response, if its origin is one of ours."""
        if not self._origins:
            return
        response.headers["vary"] = "origin"
        if (origin := self._allowed(request)) is not None:
            response.headers["access-control-allow-origin"] = origin
            response.headers["access-control-expose-headers"] = _EXPOSED

    def _allowed(self, request: Request) -> str | None:
        origin = request.headers.getone("origin", "")
        if not origin:
            return None
        if "*" in self._origins:
            return "*"
        return origin if origin in self._origins else None
