"""Builds the app of port 3000, Takeoff's native API and the page for people: wiring only."""

from __future__ import annotations

from proxy import error_handler, gate
from proxy.chat import chat
from proxy.config import ProxyConfig
from proxy.context import App
from proxy.loads import Loads
from proxy.models import models
from proxy.native import native
from proxy.native_routes import NATIVE
from proxy.openapi import describing
from proxy.server import new_app
from proxy.status import status
from proxy.version import version
from proxy.web_page import PATHS, page

# Load balancers and browsers that show the page have no key.
_OPEN = frozenset({"/healthz"}) | PATHS


def create_native_app(config: ProxyConfig, first: App, name: str = "slipstream-native") -> App:
    """Wire up port 3000. It shares what `first`, the app of the OpenAI API, holds, and lives as long.

    `name` must be unique in the process.
    """
    app = new_app(config, name)
    for routes in (page, native, status, chat, models, version, describing(NATIVE)):
        app.blueprint(routes)
    error_handler.install(app)
    app.ctx.shutdown = first.ctx.shutdown

    @app.before_server_start
    async def share(app: App) -> None:
        app.ctx.context = first.ctx.context
        app.ctx.loads = Loads(first.ctx.context.backend)

    gate.install(app, config, _OPEN)
    return app
