"""What the routes share: the settings, the backend and the groups of one running app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from sanic import Request, Sanic

from proxy.admission import Admission
from proxy.backend import Backend
from proxy.config import ProxyConfig
from proxy.groups import Groups
from proxy.meter import Meter
from proxy.shutdown import Shutdown
from proxy.tracing import Tracing

App: TypeAlias = Sanic[Any, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """Made before the server starts, because the backend belongs to the event loop."""

    config: ProxyConfig
    backend: Backend
    groups: Groups
    admission: Admission
    shutdown: Shutdown
    meter: Meter
    tracing: Tracing | None = None


def context(request: Request) -> Context:
    """Return the context of the app that serves `request`."""
    return cast(Context, request.app.ctx.context)
