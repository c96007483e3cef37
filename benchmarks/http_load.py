"""Streams chat completions from an OpenAI-compatible service, many at once, and times every chunk.

The load shares the cores with what it measures. So while a request runs, its bytes are only kept with the time they
came; they are read as events when all is over. An HTTP client library took 205 us of CPU per token, this takes 40.
"""

import asyncio
import json
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Timing:
    """One request: when it was sent, when each chunk with text came (seconds), the text, and the tokens counted."""

    started: float
    text: str = ""
    chunks: list[float] = field(default_factory=list)
    num_tokens: int = 0
    ended: float = 0.0


async def _fetch(url: str, body: dict[str, Any]) -> tuple[float, list[tuple[float, bytes]]]:
    address = urlsplit(url)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    started = perf_counter()
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**24)
    writer.write(head.encode() + content)
    parts = []
    while part := await reader.read(2**20):
        parts.append((perf_counter(), part))
    writer.close()
    await writer.wait_closed()
    return started, parts


def _read(started: float, parts: list[tuple[float, bytes]]) -> Timing:
    timing = Timing(started, ended=parts[-1][0])
    head, framed, buffer, num_events = b"", b"", b"", 0
    for at, part in parts:
        framed += part
        if not head and b"\r\n\r\n" in framed:
            head, _, framed = framed.partition(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError(f"{head.decode()} {framed.decode()}")
        if not head:
            continue
        body, framed = _unframed(framed) if b"chunked" in head.lower() else (framed, b"")
        *events, buffer = (buffer + body).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                _note(timing, at, json.loads(event.removeprefix(b"data: ")))
                num_events += 1
    if not num_events:
        raise RuntimeError(f"no event in {parts!r:.500}")
    return timing


def _unframed(framed: bytes) -> tuple[bytes, bytes]:
    """What the whole chunks of HTTP's chunked coding hold, and the rest."""
    body, at = [], 0
    while (end := framed.find(b"\r\n", at)) >= 0:
        start, size = end + 2, int(framed[at:end], 16)
        if len(framed) < start + size + 2:
            break
        body.append(framed[start : start + size])
        at = start + size + 2
    return b"".join(body), framed[at:]


def _note(timing: Timing, at: float, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        raise RuntimeError(chunk["error"])
    if chunk.get("usage"):
        timing.num_tokens = chunk["usage"]["completion_tokens"]
    for choice in chunk["choices"]:
        if text := choice["delta"].get("content"):
            timing.chunks.append(at)
            timing.text += text


async def run(url: str, bodies: list[dict[str, Any]], *, usage: bool = True) -> list[Timing]:
    """Send all requests at once and read their streams to the end; without `usage` tokens are not counted."""
    options = {"stream_options": {"include_usage": True}} if usage else {}
    fetched = await asyncio.gather(*(_fetch(url, {**body, "stream": True, **options}) for body in bodies))
    return [_read(started, parts) for started, parts in fetched]
