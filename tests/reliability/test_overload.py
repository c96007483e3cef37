"""More clients than can be served: some are, the others are told to come back, and nothing grows."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.reliability.conftest import MAX_QUEUE, Victim

CLIENTS = 500


def test_500_clients_at_once_are_answered_or_refused_at_once(victim: Victim) -> None:
    victim.wait_until_it_serves()
    before = _resident(victim)
    answers = asyncio.run(_ask_all(victim))
    counts = Counter(answer.status_code for answer, _ in answers)
    assert set(counts) == {200, 429}, counts
    assert counts[200] >= MAX_QUEUE
    refusals = [(answer, seconds) for answer, seconds in answers if answer.status_code == 429]
    assert {answer.headers["retry-after"] for answer, _ in refusals} == {"1"}
    assert {answer.json()["error"]["code"] for answer, _ in refusals} == {"server_overloaded"}
    slowest_refusal = max(seconds for _, seconds in refusals)
    slowest_answer = max(seconds for answer, seconds in answers if answer.status_code == 200)
    assert slowest_refusal < slowest_answer
    asyncio.run(_ask_all(victim))
    assert victim.ask().status_code == 200
    growth = _resident(victim) - before
    print(f"{counts}, refused after at most {slowest_refusal:.1f} s, grown by {growth / 2**20:.0f} MiB")  # noqa: T201
    assert growth < 300 * 2**20


async def _ask_all(victim: Victim) -> list[tuple[httpx.Response, float]]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=victim.url, timeout=120, limits=limits) as http:
        return list(await asyncio.gather(*(_ask(http) for _ in range(CLIENTS))))


async def _ask(http: httpx.AsyncClient) -> tuple[httpx.Response, float]:
    body = {"model": "primary", "prompt": "Once upon a time", "max_tokens": 16, "ignore_eos": True}
    began = time.monotonic()
    answer = await http.post("/v1/completions", json=body)
    return answer, time.monotonic() - began


def _resident(victim: Victim) -> int:
    """Bytes of memory of the whole service."""
    return sum(_resident_of(pid) for pid in victim.launch.processes())


def _resident_of(pid: int) -> int:
    pages = Path("/proc", str(pid), "statm").read_text().split()[1]
    return int(pages) * 4096
