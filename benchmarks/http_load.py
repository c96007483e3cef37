"""Streams chat completions from an OpenAI-compatible service, many at once, and times every chunk."""

import asyncio
import json
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx


@dataclass
class Timing:
    """One request: when it was sent, when each chunk with text came (seconds), the text, and the tokens counted."""

    started: float
    text: str = ""
    chunks: list[float] = field(default_factory=list)
    num_tokens: int = 0
    ended: float = 0.0


async def _stream(client: httpx.AsyncClient, url: str, body: dict[str, Any], usage: bool) -> Timing:
    timing = Timing(perf_counter())
    asked = {**body, "stream": True, **({"stream_options": {"include_usage": True}} if usage else {})}
    async with client.stream("POST", f"{url}/v1/chat/completions", json=asked) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if chunk.get("usage"):
                timing.num_tokens = chunk["usage"]["completion_tokens"]
            elif text := chunk["choices"][0]["delta"].get("content"):
                timing.chunks.append(perf_counter())
                timing.text += text
    timing.ended = perf_counter()
    return timing


async def run(url: str, bodies: list[dict[str, Any]], *, usage: bool = True) -> list[Timing]:
    """Send all requests at once and read their streams to the end; without `usage` tokens are not counted."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        return list(await asyncio.gather(*(_stream(client, url, body, usage) for body in bodies)))
