"""Requests of every kind for a time: streams, whole answers, choices, repeated prompts, refusals, clients that leave.

For pictures of metrics and for tests of them; how fast it goes is nobody's business here.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx

_TOPICS = ("rivers", "bread", "prime numbers", "the moon", "bicycles", "tea", "glaciers", "ants", "violins", "maps")


def _chat(client: httpx.AsyncClient, text: str, **fields: Any) -> Awaitable[httpx.Response]:
    body = {"model": "primary", "messages": [{"role": "user", "content": text}], **fields}
    return client.post("/v1/chat/completions", json=body)


def _question(dice: random.Random) -> str:
    return f"Write {dice.choice(('one', 'two', 'three'))} sentences about {dice.choice(_TOPICS)}."


async def _stream(client: httpx.AsyncClient, dice: random.Random) -> None:
    await _chat(client, _question(dice), stream=True, max_tokens=dice.randint(4, 48))


async def _whole(client: httpx.AsyncClient, dice: random.Random) -> None:
    await _chat(client, _question(dice), max_tokens=dice.randint(4, 32))


async def _choices(client: httpx.AsyncClient, dice: random.Random) -> None:
    await _chat(client, _question(dice), n=3, stream=True, max_tokens=12)


async def _again(client: httpx.AsyncClient, dice: random.Random) -> None:
    """A long beginning that the prefix cache knows after the first time."""
    await _chat(client, "Here is what you should know. " * 12 + _question(dice), stream=True, max_tokens=8)


async def _completion(client: httpx.AsyncClient, dice: random.Random) -> None:
    body = {"model": "primary", "prompt": [_question(dice), _question(dice)], "max_tokens": 8}
    await client.post("/v1/completions", json=body)


async def _refused(client: httpx.AsyncClient, dice: random.Random) -> None:
    await _chat(client, "word " * 40_000 if dice.random() < 0.3 else "Hi", temperature=9, max_tokens=2)
    await _chat(client, "word " * 9_000)
    await _chat(client, "Hi", model=f"nobody-{dice.random()}")
    await client.get(f"/nowhere/{dice.random()}")


async def _leave(client: httpx.AsyncClient, dice: random.Random) -> None:
    body = {"model": "primary", "messages": [{"role": "user", "content": _question(dice)}], "stream": True}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        await anext(response.aiter_raw())


KINDS: tuple[Callable[[httpx.AsyncClient, random.Random], Awaitable[None]], ...] = (
    _stream,
    _whole,
    _choices,
    _again,
    _completion,
    _refused,
    _leave,
)
_WEIGHTS = (8, 3, 1, 3, 1, 1, 1)


async def once(url: str) -> None:
    """One request of each kind, all at the same time."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(kind(client, random.Random(1)) for kind in KINDS))


async def run(url: str, seconds: float, concurrency: int, seed: int = 1) -> None:
    """So many clients that ask one thing after another until the time is over."""
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(_client(client, random.Random(seed + number)) for number in range(concurrency)))


async def _client(client: httpx.AsyncClient, dice: random.Random) -> None:
    while True:
        (kind,) = dice.choices(KINDS, _WEIGHTS)
        await kind(client, dice)
        await asyncio.sleep(dice.expovariate(1))
