"""The proxy on the fake backend as a process of its own: `python -m tests.proxy.served OPENAI_PORT NATIVE_PORT`.

For clients that run outside of our event loop, such as fuzzers.
"""

from __future__ import annotations

import socket
import sys

from sanic import Sanic

from proxy.beside import serve_beside
from proxy.config import ProxyConfig
from proxy.native_server import create_native_app
from proxy.server import create_app
from tests.proxy.fakes import FakeBackend


def serve(config: ProxyConfig, backend: FakeBackend, openai_port: int, native_port: int) -> None:
    """Serve both ports until SIGTERM."""
    openai, native = [socket.create_server(("127.0.0.1", port)) for port in (openai_port, native_port)]
    app = create_app(config, backend)
    app.prepare(sock=openai, single_process=True, motd=False)
    serve_beside(app, create_native_app(config, app), native)
    Sanic.serve_single(app)


if __name__ == "__main__":
    serve(ProxyConfig(), FakeBackend(), *map(int, sys.argv[1:]))
