"""What every request passes on its way in and every response on its way out, whatever the route."""

from __future__ import annotations

import logging
from collections.abc import Set

from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from proxy import request_id
from proxy.api_keys import ApiKeys
from proxy.config import ProxyConfig
from proxy.context import App, context
from proxy.cors import Cors, is_loopback
from proxy.logs import Line
from proxy.meter import UNKNOWN

_log = logging.getLogger("proxy.requests")

# A load balancer asks these, and has no key.
HEALTH = frozenset({"/health", "/health/ready"})


def install(app: App, config: ProxyConfig, open_paths: Set[str] = HEALTH) -> None:
    """Put the gate before and behind all routes of `app`, also those that do not exist.

    `open_paths` need no key.

    Raises:
        KeyFileError: the file of API keys cannot be used.
    """
    keys = ApiKeys(config.api_keys, config.api_keys_file)
    cors = Cors(config.cors_origins)
    is_local = is_loopback(config.host)

    def enter(request: Request) -> HTTPResponse | None:
        if (answer := cors.preflight(request)) is not None:
            return answer
        request.app.ctx.shutdown.refuse()
        if keys.is_required and request.path not in open_paths:
            request.ctx.owner = keys.owner(request.headers.getone("authorization", ""))
        if is_local and not keys.is_required:
            cors.refuse_foreign(request)
        return None

    def leave(request: Request, response: BaseHTTPResponse) -> None:
        context(request).meter.responded(request.method, request.uri_template or "", response.status)
        _log_other(request, response)
        response.headers[request_id.HEADER] = request_id.request_id(request)
        if rate := getattr(request.ctx, "rate_headers", None):
            response.headers.update(rate)
        cors.mark(request, response)
        request.app.ctx.shutdown.release(request)

    app.register_middleware(enter, "request")
    app.register_middleware(leave, "response")


def _log_other(request: Request, response: BaseHTTPResponse) -> None:
    """A line for a request that asks for no answer; those for answers have their record's."""
    if hasattr(request.ctx, "record"):
        return
    level = logging.INFO if response.status >= 400 else logging.DEBUG
    route = request.uri_template or UNKNOWN
    line = Line("other request", request_id=request_id.request_id(request), route=route, status=response.status)
    _log.log(level, line)
