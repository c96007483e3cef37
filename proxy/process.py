"""One serving process: takes the listening sockets, runs the apps on them, and ends when told to."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from sanic import Sanic

from proxy.backend import Backend
from proxy.beside import serve_beside
from proxy.config import ConfigError, ProxyConfig
from proxy.context import App
from proxy.native_server import create_native_app
from proxy.server import create_app
from proxy.shutdown import Connections, ignore_second_sigterm

# Connections that may wait to be accepted; a burst of clients is larger than Sanic's 100.
_BACKLOG = 2048


def listen(config: ProxyConfig) -> list[socket.socket]:
    """Take the configured addresses: the OpenAI API's and, unless it is switched off, the native API's.

    Raises:
        ConfigError: one cannot be had.
    """
    listeners = [_listen(config.host, config.port, "TAKEOFF_OPENAI_PORT")]
    if config.native_port:
        listeners.append(_listen(config.host, config.native_port, "TAKEOFF_PORT"))
    return listeners


def _listen(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"TAKEOFF_HOST={host!r} with {setting}={port} cannot be used: "
            f"set them to a free address of this machine ({error.strerror or error})"
        ) from None


def serve(config: ProxyConfig, listeners: Sequence[socket.socket], backend: Backend | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish the running answers and return; see `create_app` for `backend`."""
    app = create_app(config, backend)
    app.prepare(sock=listeners[0], backlog=_BACKLOG, single_process=True, motd=False, access_log=False)
    connections = app.state.server_info[0].settings["connections"] = Connections()
    for listener in listeners[1:]:
        serve_beside(app, create_native_app(config, app), listener)

    # Of the listeners of this event Sanic calls the last one first: both ports are open still.
    @app.before_server_stop
    async def stop(app: App) -> None:
        ignore_second_sigterm()
        left = await app.ctx.shutdown.drain(connections, config.shutdown_timeout)
        app.config.GRACEFUL_SHUTDOWN_TIMEOUT = left

    Sanic.serve_single(app)
