"""A client that leaves frees the engine, whatever it was waiting for."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.backend import Piece
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import FakeBackend, say, stall


def request(stream: bool, content: str = "Hi") -> bytes:
    messages = [{"role": "user", "content": content}]
    body = json.dumps({"model": "primary", "messages": messages, "stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
async def test_a_client_that_leaves_while_waiting_cancels_its_request(
    server: Server, backend: FakeBackend, stream: bool, size: int
) -> None:
    """Large bodies: Sanic stops reading the connection at 64 KiB and then misses that the client has left."""
    backend.script = stall()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(stream, "x" * size))
    await asyncio.wait_for(backend.opened.wait(), 5)
    assert backend.num_open == 1
    writer.close()
    await asyncio.wait_for(backend.closed.wait(), 2)
    assert backend.num_open == 0


async def test_a_client_that_leaves_in_the_middle_of_a_stream_cancels_its_request(
    server: Server, backend: FakeBackend
) -> None:
    backend.script = stall([Piece(0, "Hello", 1)])
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(stream=True))
    await asyncio.wait_for(reader.readuntil(b"Hello"), 5)
    writer.close()
    await asyncio.wait_for(backend.closed.wait(), 2)
    assert backend.num_open == 0


async def test_a_client_that_leaves_between_keep_alives_cancels_its_request(serve: Serve, backend: FakeBackend) -> None:
    server = await serve(sse_keep_alive=0.05)
    backend.script = stall()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(stream=True))
    await asyncio.wait_for(reader.readuntil(b": keep-alive"), 5)
    writer.close()
    await asyncio.wait_for(backend.closed.wait(), 2)


async def test_a_client_that_leaves_is_no_error(
    server: Server, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.script = stall()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(stream=False))
    await asyncio.wait_for(backend.opened.wait(), 5)
    writer.close()
    await asyncio.wait_for(backend.closed.wait(), 2)
    await asyncio.sleep(0.05)
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_a_client_that_never_reads_is_dropped(serve: Serve, backend: FakeBackend) -> None:
    server = await serve(sse_keep_alive=0.05)
    backend.script = say(*["x" * 100_000] * 1000)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1000)
    writer.write(request(stream=True))
    await asyncio.wait_for(backend.closed.wait(), 5)
    assert backend.num_open == 0
    writer.close()


async def test_a_client_that_reads_slowly_gets_everything(server: Server, backend: FakeBackend) -> None:
    """Sending waits for the client, so more than the socket's buffers hold must still arrive whole."""

    backend.script = say(*["x" * 10_000] * 1000)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(stream=True))
    await asyncio.sleep(0.3)
    received = b""
    while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        received += await asyncio.wait_for(reader.read(1 << 20), 10)
    assert received.count(b"x" * 10_000) == 1000
    writer.close()
