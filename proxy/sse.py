"""Server-sent events: their bytes, their headers, and a stream that is never silent for long.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html. Knows nothing of chat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import msgspec
from sanic import Request
from sanic.http import Http

from proxy.http10 import send_unchunked
from proxy.request_id import request_id
from proxy.response import Response

_log = logging.getLogger(__name__)

CONTENT_TYPE = "text/event-stream; charset=utf-8"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

# A client that has taken nothing for so many keep-alive intervals, although all buffers are full, has hung:
# its connection would never end by itself, and the engine's answer would wait for it in Triton's memory.
STALLED_INTERVALS = 4

_encoder = msgspec.json.Encoder()


def encode(events: Iterable[Any]) -> bytes:
    """Encode each event as JSON in a `data:` line. JSON has no line breaks, so one line is enough."""
    return b"".join([b"data: %b\n\n" % _encoder.encode(event) for event in events])


@dataclass(frozen=True)
class Wire:
    """How a dialect writes its events, failures among them, and what ends an answer."""

    encode: Callable[[Iterable[Any]], bytes]
    done: bytes


OPENAI_WIRE = Wire(encode, DONE)


class EventStream:
    """The response to one request, begun by its first write.

    A companion task writes a comment whenever nothing has been written for `keep_alive` seconds, so that
    proxies and clients in between do not take a slow model for a dead one. Use as a context manager: leaving
    it stops the companion.
    """

    def __init__(self, request: Request, keep_alive: float) -> None:
        self._request = request
        self._keep_alive = keep_alive
        self._sanic: Http | None = None
        self._writing = asyncio.Lock()
        self._now = asyncio.get_running_loop().time
        self._last_write = self._now()
        self._ended = False
        self._companion: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether headers have been sent, so that the status can no longer change."""
        return self._sanic is not None

    async def write(self, data: bytes, *, end: bool = False) -> None:
        """Send `data`, waiting while the client is behind; `end` completes the response."""
        await self._writing.acquire()  # `async with` costs twice as much, for each chunk
        try:
            if self._sanic is None:
                await self._request.respond(Response(content_type=CONTENT_TYPE, headers=HEADERS))
                send_unchunked(self._request)
                self._sanic = cast(Http, self._request.stream)
            await self._sanic.send(data, end)  # what the response's own `send` comes down to
            self._ended = end
            self._last_write = self._now()
        finally:
            self._writing.release()

    async def __aenter__(self) -> Self:
        self._companion = asyncio.create_task(self._speak_up())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._companion is not None
        self._companion.cancel()
        # Wait without taking over its cancellation: ours must still get through.
        await asyncio.wait([self._companion])

    async def _speak_up(self) -> None:
        while not self._ended:
            silent = self._now() - self._last_write
            if silent < self._keep_alive:
                await asyncio.sleep(self._keep_alive - silent)
            elif not self._writing.locked():
                await self.write(KEEP_ALIVE)
            elif silent < STALLED_INTERVALS * self._keep_alive:
                await asyncio.sleep(self._keep_alive)
            else:
                self._drop()
                return

    def _drop(self) -> None:
        _log.warning("request %s dropped: its client reads nothing", request_id(self._request))
        if self._request.transport is not None:
            self._request.transport.abort()  # type: ignore[attr-defined]
