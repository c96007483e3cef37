"""Builds the Sanic app: wiring only."""

from __future__ import annotations

import asyncio
import os

from sanic import Sanic

from proxy import error_handler, gate
from proxy.admission import Admission
from proxy.backend import Backend
from proxy.chat import chat
from proxy.completions import completions
from proxy.config import ProxyConfig
from proxy.context import App, Context
from proxy.groups import Groups
from proxy.health import health
from proxy.load_notes import LoadNotes
from proxy.meter import Meter
from proxy.metrics import metrics
from proxy.models import models
from proxy.openapi import describing
from proxy.pulses import Pulses
from proxy.replicas import Replicas
from proxy.request_body import drained_bytes
from proxy.responses import responses
from proxy.routes import OPENAI
from proxy.shutdown import Shutdown
from proxy.tokens import tokens
from proxy.tracing import Tracing, is_asked_for
from proxy.triton_client import TritonBackend
from proxy.version import version


def create_app(config: ProxyConfig, backend: Backend | None = None, name: str = "slipstream") -> App:
    """Wire up the proxy. Without a `backend` it speaks to the Triton of `config.triton_url`.

    The backend is closed when the app stops. `name` must be unique in the process.
    """
    app = new_app(config, name)
    for routes in (chat, completions, responses, tokens, models, version, describing(OPENAI), health, metrics):
        app.blueprint(routes)
    error_handler.install(app)
    _manage_context(app, config, backend)
    gate.install(app, config)
    return app


def new_app(config: ProxyConfig, name: str) -> App:
    """An app without routes, with Sanic set as both ports need it."""
    # Sanic reads SANIC_* variables unless told not to; ours are the only settings.
    app: App = Sanic(name, env_prefix=None, configure_logging=False)
    app.config.update(
        ACCESS_LOG=False,
        MOTD=False,
        AUTO_EXTEND=False,
        REQUEST_MAX_SIZE=drained_bytes(config.max_body_bytes),
        REQUEST_TIMEOUT=config.request_timeout,
        # A limit of silence, which a slow answer does not deserve; config.response_timeout limits answers.
        RESPONSE_TIMEOUT=float("inf"),
        GRACEFUL_SHUTDOWN_TIMEOUT=config.shutdown_timeout,
    )
    return app


def _manage_context(app: App, config: ProxyConfig, backend: Backend | None) -> None:
    app.ctx.shutdown = Shutdown()
    admission = Admission(config.max_requests_per_minute, config.max_concurrent_requests)

    @app.before_server_start
    async def begin(app: App) -> None:
        tracing = Tracing(os.environ) if is_asked_for(os.environ) else None
        speaker = backend if backend is not None else TritonBackend(config.triton_url)
        if tracing is not None:
            from proxy.traced_backend import TracedBackend  # which imports OpenTelemetry

            speaker = TracedBackend(speaker, tracing)
        pulses, notes = Pulses(speaker, config.pass_timeout), LoadNotes(config.run_dir)
        groups = Groups(speaker, pulses=pulses, loads=notes.reasons)
        replicas = Replicas(speaker, groups)
        app.ctx.context = Context(config, replicas, groups, admission, app.ctx.shutdown, Meter(groups), tracing)
        app.ctx.refreshing = asyncio.create_task(groups.run())

    @app.after_server_stop
    async def end(app: App) -> None:
        app.ctx.refreshing.cancel()
        await asyncio.wait([app.ctx.refreshing])
        await app.ctx.context.backend.close()
        if app.ctx.context.tracing is not None:
            await app.ctx.context.tracing.close()
