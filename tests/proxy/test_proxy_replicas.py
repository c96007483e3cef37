"""Requests of a group go to the replica with the least to do, and survive a replica that cannot answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from proxy.backend import GenerateRequest, Load, ModelState, Piece, Prompt
from proxy.errors import ApiError, InvalidRequestError, OverloadedError, UnavailableError
from proxy.groups import Groups
from proxy.replicas import Replicas
from tests.proxy.conftest import Server
from tests.proxy.fakes import FakeBackend, say

NAMES = ["primary", "primary--2", "primary--3"]


class Ill(FakeBackend):
    """Three replicas, of which some fail, before or after their first word."""

    def __init__(self, failures: dict[str, ApiError], *, late: bool = False) -> None:
        super().__init__()
        self.states = [ModelState(name, "READY") for name in NAMES]
        self.failures = failures
        self.late = late

    async def generate(self, group: str, request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        failure = self.failures.get(group)
        if failure is not None and not self.late:
            self.requests.append((group, request))
            raise failure
        async for pieces in super().generate(group, request):
            yield pieces
            if failure is not None:
                raise failure


def asking(**prompt: Any) -> GenerateRequest:
    return GenerateRequest(Prompt(**(prompt or {"text": "Hi"})), {}, stream=True)


async def balanced(backend: FakeBackend) -> Replicas:
    groups = Groups(backend)
    await groups.refresh()
    return Replicas(backend, groups)


async def collect(replicas: Replicas, request: GenerateRequest) -> list[Piece]:
    async with aclosing(replicas.generate("primary", request)) as responses:
        return [piece async for pieces in responses for piece in pieces]


async def test_a_groups_load_is_that_of_its_replicas_together() -> None:
    assert await (await balanced(Ill({}))).load("primary") == Load(0, 0, 3 * 32_768, 0)


async def test_requests_at_once_are_spread_evenly() -> None:
    backend = Ill({})
    backend.script = say("a", "b", pause=0.01)
    replicas = await balanced(backend)
    await asyncio.gather(*(collect(replicas, asking()) for _ in range(12)))
    assert Counter(name for name, _ in backend.requests) == dict.fromkeys(NAMES, 4)


async def test_long_answers_count_for_as_long_as_they_last() -> None:
    backend = Ill({})
    replicas = await balanced(backend)
    long = replicas.generate("primary", asking())
    await anext(long)
    busy = backend.requests[0][0]
    for _ in range(6):
        await collect(replicas, asking())
    assert busy not in [name for name, _ in backend.requests[1:]]
    await long.aclose()
    await collect(replicas, asking())
    assert backend.requests[-1][0] == busy


async def test_turns_of_a_conversation_go_to_the_same_replica_and_conversations_are_spread() -> None:
    backend = Ill({})
    replicas = await balanced(backend)
    system = {"role": "system", "content": "Be brief."}
    chosen = []
    for number in range(20):
        turns = [system, {"role": "user", "content": f"Question {number}"}]
        for _ in range(3):
            await collect(replicas, asking(messages=turns))
            turns = [*turns, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And?"}]
        names = {name for name, _ in backend.requests[-3:]}
        assert len(names) == 1
        chosen += names
    assert set(chosen) == set(NAMES)


@pytest.mark.parametrize("prompt", [{"text": "x"}, {"text": "\ud800"}, {"token_ids": [1, 2]}, {"messages": []}])
async def test_every_kind_of_prompt_finds_a_replica(prompt: dict[str, Any]) -> None:
    assert await collect(await balanced(Ill({})), asking(**prompt))


@pytest.mark.parametrize("failure", [UnavailableError("gone"), OverloadedError("full")])
async def test_what_one_replica_cannot_take_another_answers(failure: ApiError) -> None:
    backend = Ill({"primary": failure, "primary--3": failure})
    replicas = await balanced(backend)
    for number in range(10):
        assert [piece.text for piece in await collect(replicas, asking(text=f"{number}"))] == ["Hello", " world"]


async def test_a_request_that_no_replica_takes_fails_after_each_was_asked_once() -> None:
    backend = Ill(dict.fromkeys(NAMES, OverloadedError("full")))
    replicas = await balanced(backend)
    with pytest.raises(OverloadedError, match="full"):
        await collect(replicas, asking())
    assert sorted(name for name, _ in backend.requests) == NAMES


async def test_a_refused_request_is_not_tried_again() -> None:
    backend = Ill(dict.fromkeys(NAMES, InvalidRequestError("wrong")))
    with pytest.raises(InvalidRequestError):
        await collect(await balanced(backend), asking())
    assert len(backend.requests) == 1


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    backend = Ill(dict.fromkeys(NAMES, UnavailableError("gone")), late=True)
    with pytest.raises(UnavailableError):
        await collect(await balanced(backend), asking())
    assert len(backend.requests) == 1


async def test_a_client_that_leaves_is_no_longer_counted() -> None:
    backend = Ill({})
    backend.script = say("a", "b", pause=10)
    replicas = await balanced(backend)
    waiting = asyncio.create_task(collect(replicas, asking()))
    await asyncio.wait_for(backend.opened.wait(), 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    backend.script = say("a")
    for _ in range(3):
        await collect(replicas, asking())
    assert {name for name, _ in backend.requests} == {backend.requests[0][0]}


async def test_replicas_show_as_one_group_that_is_as_ready_as_its_readiest(
    server: Server, backend: FakeBackend
) -> None:
    backend.states = [
        ModelState("primary", "LOADING"),
        ModelState("primary--2", "READY"),
        ModelState("primary--10", "UNAVAILABLE", "no memory"),
        ModelState("odd--name", "READY"),
    ]
    await server.app.ctx.context.groups.refresh()
    assert [model["id"] for model in (await server.http.get("/v1/models")).json()["data"]] == ["odd--name", "primary"]
    _, primary = (await server.http.get("/health/ready")).json()["groups"]
    assert primary == {
        "name": "primary",
        "state": "ready",
        "reason": "1 of 3 replicas are ready: primary is loading (0 s so far), primary--10 is unavailable (no memory)",
    }
    assert (await server.chat()).status_code == 200
    assert backend.requests[-1][0] == "primary--2"
    assert (await server.chat(model="primary--2")).status_code == 404
