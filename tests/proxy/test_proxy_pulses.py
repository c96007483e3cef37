"""A group whose process died is refused at once, its open requests fail; a busy one is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from proxy.backend import ModelState, Piece, Pulse
from proxy.errors import ApiError, DeadlineError, NeverSeenError, ProcessDeadError, UnavailableError
from proxy.groups import Groups
from proxy.pulses import Pulses
from proxy.triton_client import TritonBackend
from tests.proxy.fake_triton import FakeTriton, failure, hello, piece, response, running
from tests.proxy.fakes import FakeBackend
from tests.proxy.test_proxy_triton_client import STREAM, collect

DEAD = ProcessDeadError("dead")


@pytest_asyncio.fixture
async def groups(backend: FakeBackend) -> AsyncIterator[Groups]:
    """Asks every 5 ms; a pass or a silence may last 50 ms."""
    groups = Groups(backend, 0.005, Pulses(backend, pass_timeout=0.05, interval=0.005))
    running = asyncio.create_task(groups.run())
    await groups.ready("primary")
    yield groups
    running.cancel()
    await asyncio.wait([running])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "beat", [DEAD, Pulse(is_serving=False, pass_seconds=0.0), Pulse(is_serving=True, pass_seconds=0.06)]
)
async def test_an_ill_group_is_refused_and_abandoned_and_the_others_are_not(
    groups: Groups, backend: FakeBackend, beat: Pulse | ApiError
) -> None:
    backend.beats["primary"] = beat
    await until(lambda: "primary" in backend.abandoned and groups.all[0].state == "unavailable")
    with pytest.raises(UnavailableError, match="'primary' is not available: its") as caught:
        await groups.ready("primary")
    assert caught.value.headers["retry-after"] == "2"
    await groups.ready("second")
    assert set(backend.abandoned) == {"primary"}


async def test_a_group_that_is_well_again_is_served_again(groups: Groups, backend: FakeBackend) -> None:
    backend.beats["primary"] = DEAD
    await until(lambda: {g.name: g.state for g in groups.all}["primary"] == "unavailable")
    del backend.beats["primary"]
    await until(lambda: {g.name: g.state for g in groups.all}["primary"] == "ready")
    await groups.ready("primary")


async def test_a_short_silence_is_no_illness_and_a_long_one_is(groups: Groups, backend: FakeBackend) -> None:
    loop = asyncio.get_running_loop()
    silent = loop.time()
    backend.beats["primary"] = DeadlineError("late")
    while loop.time() - silent < 0.03:
        assert backend.abandoned == []
        await groups.ready("primary")
        await asyncio.sleep(0.005)
    await until(lambda: "primary" in backend.abandoned)
    assert loop.time() - silent > 0.05


async def test_requests_of_a_process_that_was_replaced_between_two_questions_fail_too(
    groups: Groups, backend: FakeBackend
) -> None:
    backend.states = [ModelState("primary", "LOADING")]
    await until(lambda: groups.all[0].state == "loading")
    assert backend.abandoned == []  # one that is unloaded on purpose still finishes its answers
    backend.states = [ModelState("primary", "READY")]
    await until(lambda: backend.abandoned == ["primary"])


async def test_abandoning_fails_the_groups_open_requests_alone() -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        yield response(("Hello", piece(0)))
        await asyncio.Event().wait()

    async with running(FakeTriton(script)) as triton:
        client = TritonBackend(f"127.0.0.1:{triton.port}")
        ours, theirs = client.generate("primary", STREAM), client.generate("second", STREAM)
        await anext(ours)
        await anext(theirs)
        client.abandon("primary", "It died.")
        with pytest.raises(UnavailableError, match=r"It died\."):
            await asyncio.wait_for(anext(ours), 2)
        waiting = asyncio.create_task(anext(theirs))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        await client.close()


async def test_a_dead_process_is_told_from_a_model_that_is_away() -> None:
    async with running(FakeTriton()) as triton:
        client = TritonBackend(f"127.0.0.1:{triton.port}")
        assert await client.pulse("primary") == Pulse(is_serving=True, pass_seconds=0.0)
        for message, expected in (
            ("Stub process 'primary_0_0' is not healthy.", ProcessDeadError),
            ("Request for unknown model: 'primary' is not found", NeverSeenError),
        ):

            async def script(inputs: Any, context: Any, message: str = message) -> AsyncIterator[Any]:
                yield failure(message)

            triton.script = script
            with pytest.raises(expected):
                await collect(client)
        await client.close()


async def test_a_request_that_no_model_has_seen_is_sent_once_more() -> None:
    async def away_once(inputs: Any, context: Any) -> AsyncIterator[Any]:
        if len(triton.requests) == 1:
            yield failure("Request for unknown model: 'primary' is not at ready state")
            return
        async for message in hello(inputs, context):
            yield message

    async with running(FakeTriton(away_once)) as triton:
        client = TritonBackend(f"127.0.0.1:{triton.port}")
        pieces: list[list[Piece]] = await collect(client)
        assert [part.text for some in pieces for part in some] == ["Hello", " world", ""]
        assert len(triton.requests) == 2
        await client.close()


async def test_a_request_that_a_model_has_seen_is_not_sent_again() -> None:
    async def dies(inputs: Any, context: Any) -> AsyncIterator[Any]:
        yield failure("Stub process 'primary_0_0' is not healthy.")

    async with running(FakeTriton(dies)) as triton:
        client = TritonBackend(f"127.0.0.1:{triton.port}")
        with pytest.raises(ProcessDeadError):
            await collect(client)
        assert len(triton.requests) == 1
        await client.close()
