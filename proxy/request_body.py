"""Receiving a request's body within limits of size and silence.

Sanic would do it before the handler runs, but closes the connection on a client that is still sending too
much: the client then sees a broken connection instead of the 413, and tries again. Here the refusal is sent
first; Sanic reads what is left of the body and throws it away, up to `drained_bytes`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sanic import Request
from sanic.http import Http

from proxy.config import ProxyConfig
from proxy.errors import PayloadTooLargeError, RequestTimeoutError
from proxy.json_body import require_json

T = TypeVar("T")

# docs/reliability.md has what bodies cost; below this the way to the thread and back is not worth it.
_LARGE_BYTES = 1 << 18
# One thread, so that however many large bodies come, it is one that the event loop shares Python's lock with.
_parsing = ThreadPoolExecutor(1, thread_name_prefix="parsing")


def drained_bytes(max_bytes: int) -> int:
    """How much of a refused body is still read; more than that breaks the connection.

    Sanic cuts off header lines at this number too, which is why it has a floor.
    """
    return max(8 * max_bytes, 1 << 20)


async def receive_json(request: Request, config: ProxyConfig, parse: Callable[[bytes], T]) -> T:
    """Receive a body that may hold JSON, see `receive`, and return what `parse` makes of it.

    Raises:
        UnsupportedMediaTypeError: the request says that its body is something else.
    """
    require_json(request.headers.getone("content-type", ""), is_of_page="origin" in request.headers)
    return await parsed(parse, await receive(request, config.max_body_bytes, config.request_timeout))


async def parsed(parse: Callable[[bytes], T], body: bytes) -> T:
    """What `parse` makes of the body. A large one is parsed on a thread, while the event loop serves others."""
    if len(body) < _LARGE_BYTES:
        return parse(body)
    return await asyncio.get_running_loop().run_in_executor(_parsing, _uncollected, parse, body)


def _uncollected(parse: Callable[[bytes], T], body: bytes) -> T:
    """Without the garbage collector, which would go over millions of new lists again and again, all else waiting."""
    gc.disable()
    try:
        return parse(body)
    finally:
        gc.enable()


async def receive(request: Request, max_bytes: int, max_silence: float) -> bytes:
    """Return the body of a request to a route that was declared with `stream=True`.

    Raises:
        PayloadTooLargeError: it is, or says to be, larger than `max_bytes`.
        RequestTimeoutError: nothing came for `max_silence` seconds.
    """
    source = request.stream
    assert isinstance(source, Http)
    parts: list[bytes] = []
    while source.request_body:
        _check(source, max_bytes)
        part = await (source.read() if _has_come(source) else _read_in_time(source, max_silence))
        if part:
            parts.append(part)
    _check(source, max_bytes)
    return b"".join(parts)


def _has_come(source: Http) -> bool:
    """Whether reading on waits for nobody, so that it needs no timer. Between chunks it may, whatever has come."""
    is_chunked = source.request_body == "chunked"  # type: ignore[comparison-overlap]  # a word, whatever Sanic declares
    return not is_chunked and bool(source.recv_buffer or not source.request_bytes_left)


async def _read_in_time(source: Http, max_silence: float) -> bytes | None:
    try:
        async with asyncio.timeout(max_silence):
            return await source.read()
    except TimeoutError:
        raise RequestTimeoutError(
            f"The rest of the request body did not come within {max_silence:g} seconds."
        ) from None


def _check(source: Http, max_bytes: int) -> None:
    """Compare what has come, or what content-length announces, with the limit."""
    if (source.request_bytes or 0) > max_bytes:
        raise PayloadTooLargeError(f"The request body is larger than {max_bytes} bytes.")
