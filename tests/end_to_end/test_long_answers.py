"""What takes longer than the timers of servers: over a minute, with the settings as they are, by real sockets and gRPC.

Sanic ends a request after 60 s of silence unless told otherwise. LONG_ANSWER_SECONDS=610 makes it ten minutes.
"""

import asyncio
import os
import time

import httpx

from tests.proxy.fake_triton import FakeTriton, running
from tests.proxy.test_proxy_process import BODY, gated, proxy

SECONDS = float(os.environ.get("LONG_ANSWER_SECONDS", "75"))


async def half_sent(url: str) -> tuple[float, bytes]:
    """Seconds until a request whose body never comes is refused, and the refusal."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 10\r\n\r\n{")
    began = time.monotonic()
    refusal = await reader.readuntil(b"}}")
    writer.close()
    return time.monotonic() - began, refusal


async def test_long_answers_are_given_and_half_sent_requests_are_not_waited_for() -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    async with (
        running(FakeTriton(gated(gate, started))) as triton,
        proxy(triton) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(SECONDS + 60)) as http,
    ):
        plain = asyncio.create_task(http.post("/v1/chat/completions", json=BODY))
        stream = asyncio.create_task(http.post("/v1/chat/completions", json={**BODY, "stream": True}))
        half = asyncio.create_task(half_sent(url))
        await asyncio.sleep(SECONDS)
        assert not plain.done()
        assert not stream.done()
        gate.set()
        answer = await plain
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "Hello world"
        text = (await stream).text
        assert text.endswith("data: [DONE]\n\n")
        assert text.count(": keep-alive\n\n") >= int(SECONDS / 15) - 1
        seconds, refusal = await half
        assert refusal.startswith(b"HTTP/1.1 408 ")
        assert 59 < seconds < min(SECONDS, 90)
