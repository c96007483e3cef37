"""The real app on a loopback socket, in the test's own event loop."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from proxy.backend import Backend
from proxy.config import ProxyConfig
from proxy.native_server import create_native_app
from proxy.server import create_app
from tests.proxy.fakes import FakeBackend

_names = itertools.count()


@dataclass(frozen=True)
class Server:
    """A proxy that is being served; `http` is a client of it."""

    url: str
    port: int
    app: Any
    http: httpx.AsyncClient

    async def chat(self, **fields: Any) -> httpx.Response:
        """Post a chat completion with a model and one message unless told otherwise."""
        body = {"model": "primary", "messages": [{"role": "user", "content": "Hi"}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def send(self, data: bytes) -> bytes:
        """Write raw bytes to a connection of its own; return what comes back until it ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        return answer


def serving(backend: Backend, config: ProxyConfig) -> AbstractAsyncContextManager[Server]:
    return serving_app(create_app(config, backend, name=f"test_{next(_names)}"))


def serving_native(config: ProxyConfig, first: Any) -> AbstractAsyncContextManager[Server]:
    """The app of port 3000, beside the running app of the OpenAI API."""
    return serving_app(create_native_app(config, first, name=f"test_{next(_names)}"))


@asynccontextmanager
async def serving_app(app: Any) -> AsyncIterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    # Sanic rewrites its own methods at start-up to leave unused hooks out, which works once per process.
    app.config.TOUCHUP = False
    server: Any = await app.create_server(sock=listener, return_asyncio_server=True)
    await server.startup()
    await server.before_start()
    await server.after_start()
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            yield Server(url, port, app, http)
    finally:
        await server.before_stop()
        server.server.close()
        for connection in list(server.connections):
            connection.abort()
        async with asyncio.timeout(5):
            while server.connections:  # noqa: ASYNC110 (Sanic's set has no event to wait for)
                await asyncio.sleep(0.001)
        await server.after_stop()
        listener.close()
        type(app).unregister_app(app)


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest_asyncio.fixture
async def serve(backend: FakeBackend) -> AsyncIterator[Serve]:
    """A function that serves the fake backend with the given settings changed."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Server:
            config = replace(ProxyConfig(), **settings)
            return await stack.enter_async_context(serving(backend, config))

        yield start


@pytest_asyncio.fixture
async def serve_native(backend: FakeBackend) -> AsyncIterator[Serve]:
    """A function that serves port 3000 on the fake backend with the given settings changed."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Server:
            config = replace(ProxyConfig(), **settings)
            first = await stack.enter_async_context(serving(backend, config))
            return await stack.enter_async_context(serving_native(config, first.app))

        yield start


@pytest_asyncio.fixture
async def native(serve_native: Serve) -> Server:
    return await serve_native()


@pytest_asyncio.fixture
async def server(serve: Serve) -> Server:
    return await serve()
