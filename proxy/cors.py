"""Which web pages may read our answers: none, unless their origins are configured.

https://fetch.spec.whatwg.org/#http-cors-protocol. Credentials are never allowed: keys travel in a header of their own.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from proxy.errors import ForeignPageError

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

    def refuse_foreign(self, request: Request) -> None:
        """Refuse what a web page from elsewhere sends, which it can do without reading any answer.

        For a service that asks for no key because only this machine reaches it: so does every page that somebody opens
        on it. A page whose name was bound to this machine's address afterwards is caught as well, by its name.

        Raises:
            ForeignPageError: neither this machine nor one of the configured origins has the page.
        """
        if request.method in ("GET", "HEAD"):
            return
        origin = request.headers.getone("origin", "")
        if origin and self._allowed(request) is None and _is_foreign(origin):
            raise ForeignPageError(
                f"Pages from {origin!r:.100} may not use this service. If they should, add their origin to "
                "TAKEOFF_CORS_ORIGINS."
            )

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


def is_loopback(host: str) -> bool:
    """Whether a name or an address always means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_foreign(origin: str) -> bool:
    if origin == "null":  # whoever hides where it is from
        return True
    try:
        url = urlsplit(origin)
    except ValueError:
        return True
    # Other schemes are those of programs, such as `vscode-webview`; a page cannot take one on.
    return url.scheme in ("http", "https") and not is_loopback(url.hostname or "")
