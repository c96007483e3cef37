"""One serving process: takes a listening socket, runs the app on it, and ends when told to."""

from __future__ import annotations

import socket

from sanic import Sanic

from proxy.config import ConfigError, ProxyConfig
from proxy.context import App
from proxy.server import create_app
from proxy.shutdown import ignore_second_sigterm

# Connections that may wait to be accepted; a burst of clients is larger than Sanic's 100.
_BACKLOG = 2048


def listen(config: ProxyConfig) -> socket.socket:
    """Take the configured address.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"TAKEOFF_HOST={config.host!r} with TAKEOFF_OPENAI_PORT={config.port} cannot be used: "
            f"set them to a free address of this machine ({error.strerror or error})"
        ) from None


def serve(config: ProxyConfig, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then finish the running answers and return."""
    app = create_app(config)

    @app.before_server_stop
    async def stop(_app: App) -> None:
        ignore_second_sigterm()

    app.prepare(sock=listener, backlog=_BACKLOG, single_process=True, motd=False, access_log=False)
    Sanic.serve_single(app)
