"""Streams that share a bundle: what a client reads is the same, in the same order, whichever call it came by."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from proxy import bundles
from proxy.backend import GenerateRequest, Piece, Prompt, TokenLogprob, ToolCallPart, Usage
from proxy.errors import ApiError, InternalError, UnavailableError
from proxy.triton_client import TritonBackend
from proxy.wire_event import WireEvent
from tests.proxy.fake_triton import USAGE, FakeTriton, Inputs, failure, piece, response, running

STREAM = GenerateRequest(Prompt(text="Hi"), {}, True)
LAST = Piece(0, "!", 1, "stop", Usage(3, 2, 1))


class Bundling:
    """Triton's script: each test says by hand what comes by which call."""

    def __init__(self) -> None:
        self.outboxes: defaultdict[Any, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self.opened: list[str] = []
        self.ended: list[str] = []
        self._numbers = count()
        self.answers: asyncio.Queue[Inputs] = asyncio.Queue()

    async def __call__(self, inputs: Inputs, context: Any) -> AsyncIterator[Any]:
        is_bundle = inputs.get("task") == "bundle"
        inputs["key"] = inputs["bundle"] if is_bundle else next(self._numbers)
        if is_bundle:
            self.opened.append(inputs["bundle"])
        else:
            self.answers.put_nowait(inputs)
        try:
            while (message := await self.outboxes[inputs["key"]].get()) is not None:
                yield message
        finally:
            if is_bundle:
                self.ended.append(inputs["bundle"])

    def say(self, inputs: Inputs, *words: tuple[str, dict[str, Any]]) -> None:
        """By the answer's own call."""
        self.outboxes[inputs["key"]].put_nowait(response(*words))

    def finish(self, inputs: Inputs, num_bundled: int = 0) -> None:
        more = {"num_bundled": num_bundled} if num_bundled else {}
        self.say(inputs, ("!", piece(0, 1, "stop", usage=USAGE, **more)))
        self.outboxes[inputs["key"]].put_nowait(None)

    def bundle(self, name: str, *words: tuple[int, str]) -> None:
        """By the bundle."""
        self.outboxes[name].put_nowait(response(*((text, piece(0, recipient=to)) for to, text in words)))

    async def next_answer(self) -> Inputs:
        return await asyncio.wait_for(self.answers.get(), 5)


@pytest_asyncio.fixture
async def script() -> Bundling:
    return Bundling()


@pytest_asyncio.fixture
async def client(script: Bundling) -> AsyncIterator[TritonBackend]:
    async with running(FakeTriton(script=script)) as triton:
        client = TritonBackend(f"127.0.0.1:{triton.port}")
        yield client
        await client.close()


async def collect(client: TritonBackend, request: GenerateRequest = STREAM) -> list[Piece]:
    return [piece async for pieces in client.generate("primary", request) for piece in pieces]


async def ask(client: TritonBackend, script: Bundling) -> tuple[asyncio.Task[list[Piece]], Inputs]:
    task = asyncio.create_task(collect(client))
    return task, await script.next_answer()


async def eventually(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not within five seconds")


async def test_one_stream_has_no_bundle_and_a_second_one_opens_it(client: TritonBackend, script: Bundling) -> None:
    (first, alone), (second, bundled) = await ask(client, script), await ask(client, script)
    assert "bundle" not in alone
    await eventually(lambda: script.opened == [bundled["bundle"]])
    script.bundle(bundled["bundle"], (bundled["recipient"], "Hel"), (bundled["recipient"], "lo"))
    script.say(alone, ("Hi", piece(0)))
    script.finish(alone)
    script.finish(bundled, num_bundled=2)
    assert await first == [Piece(0, "Hi", 1), LAST]
    assert await second == [Piece(0, "Hel", 1), Piece(0, "lo", 1), LAST]
    await eventually(lambda: script.ended == script.opened)


async def test_whole_answers_have_no_bundle(client: TritonBackend, script: Bundling) -> None:
    whole = GenerateRequest(Prompt(text="Hi"), {}, False)
    tasks = [asyncio.create_task(collect(client, whole)) for _ in range(3)]
    for _ in tasks:
        script.finish(await script.next_answer())
    assert await asyncio.gather(*tasks) == [[LAST]] * 3
    assert script.opened == []


async def test_the_last_word_waits_for_what_was_sent_before_it_by_the_bundle(
    client: TritonBackend, script: Bundling
) -> None:
    (first, alone), (second, bundled) = await ask(client, script), await ask(client, script)
    script.finish(bundled, num_bundled=3)
    script.bundle(bundled["bundle"], (bundled["recipient"], "a"), (99, "nobody's"), (bundled["recipient"], "b"))
    await asyncio.sleep(0.05)
    assert not second.done()
    script.bundle(bundled["bundle"], (bundled["recipient"], "c"))
    assert "".join(piece.text for piece in await second) == "abc!"
    script.finish(alone)
    await first


async def test_a_model_that_knows_no_bundles_answers_as_ever(client: TritonBackend, script: Bundling) -> None:
    first, alone = await ask(client, script)
    second, bundled = await ask(client, script)
    refusal = {"kind": "invalid_request", "message": "task must be one of generate, describe", "param": "task"}
    script.outboxes[bundled["bundle"]].put_nowait(response(("", {"error": refusal})))
    await eventually(lambda: script.ended == [bundled["bundle"]])  # its call may come behind the answer's
    third, unbundled = await ask(client, script)
    assert "bundle" not in unbundled  # nobody tries again for a while
    for inputs in (alone, bundled, unbundled):
        script.say(inputs, ("Hi", piece(0)))
        if inputs is not unbundled:
            script.finish(inputs)
    assert [await first, await second] == [[Piece(0, "Hi", 1), LAST]] * 2
    third.cancel()


async def broken(script: Bundling, name: str) -> None:
    script.outboxes[name].put_nowait(failure("the model has ended"))


async def closed(script: Bundling, name: str) -> None:
    script.outboxes[name].put_nowait(None)


async def unreadable(script: Bundling, name: str) -> None:
    script.outboxes[name].put_nowait(response(("x", {"index": "zero"})))


@pytest.mark.parametrize("end", [broken, closed, unreadable])
async def test_a_bundle_that_breaks_fails_the_answers_that_came_by_it_and_no_others(
    client: TritonBackend, script: Bundling, end: Any
) -> None:
    answers = [await ask(client, script) for _ in range(4)]
    (first, alone), (begun, its), (finished, last), (silent, other) = answers
    name = its["bundle"]
    assert last["bundle"] == other["bundle"] == name
    script.bundle(name, (its["recipient"], "a"), (last["recipient"], "b"))
    script.finish(last, num_bundled=1)
    assert "".join(piece.text for piece in await finished) == "b!"
    await end(script, name)
    with pytest.raises((UnavailableError, InternalError)):
        await begun
    for inputs in (alone, other):
        script.say(inputs, ("Hi", piece(0)))
        script.finish(inputs)
    assert await first == await silent == [Piece(0, "Hi", 1), LAST]


async def test_what_a_broken_bundle_still_owed_fails_the_answer(client: TritonBackend, script: Bundling) -> None:
    (first, alone), (second, bundled) = await ask(client, script), await ask(client, script)
    script.finish(bundled, num_bundled=1)
    script.outboxes[bundled["bundle"]].put_nowait(failure("the model has ended"))
    with pytest.raises(ApiError):
        await second
    script.finish(alone)
    assert await first == [LAST]


async def test_a_client_that_leaves_takes_nobody_along_and_the_last_one_the_bundle(
    client: TritonBackend, script: Bundling
) -> None:
    (first, _), (second, leaving), (third, staying) = [await ask(client, script) for _ in range(3)]
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    script.bundle(staying["bundle"], (leaving["recipient"], "lost"), (staying["recipient"], "kept"))
    script.finish(staying, num_bundled=1)
    assert "".join(piece.text for piece in await third) == "kept!"
    await eventually(lambda: script.ended == [staying["bundle"]])
    first.cancel()


async def test_a_bundle_takes_answers_on_for_a_while_only(
    client: TritonBackend, script: Bundling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open one holds up the unloading of a model that is replaced."""
    (first, _), (second, early) = await ask(client, script), await ask(client, script)
    monkeypatch.setattr(bundles, "_INTAKE_SECONDS", 0.0)
    third, late = await ask(client, script)
    assert late["bundle"] != early["bundle"]
    script.finish(early)
    assert await second == [LAST]
    await eventually(lambda: script.ended == [early["bundle"]])
    script.bundle(late["bundle"], (late["recipient"], "a"))
    script.finish(late, num_bundled=1)
    assert "".join(piece.text for piece in await third) == "a!"
    first.cancel()


async def test_abandoned_answers_say_why_also_by_a_bundle(client: TritonBackend, script: Bundling) -> None:
    (first, _), (second, bundled) = await ask(client, script), await ask(client, script)
    script.bundle(bundled["bundle"], (bundled["recipient"], "a"))
    await eventually(lambda: script.outboxes[bundled["bundle"]].empty() and script.opened)
    client.abandon("primary", "It hangs.")
    for task in (first, second):
        with pytest.raises(UnavailableError, match="It hangs"):
            await task


async def test_closing_ends_the_bundles(script: Bundling) -> None:
    async with running(FakeTriton(script=script)) as triton:
        client = TritonBackend(f"127.0.0.1:{triton.port}")
        (first, _), (second, _) = await ask(client, script), await ask(client, script)
        await eventually(lambda: script.opened)
        await client.close()
        await eventually(lambda: script.ended == script.opened)
        await asyncio.wait([first, second], timeout=5)
        for task in (first, second):
            assert isinstance(task.exception(), ApiError)


async def fetched(*delivered: list[WireEvent]) -> list[WireEvent]:
    """What a client finds that fetches nothing before all this has come by the bundle, and then the last word."""
    all_came, num_bundled = asyncio.Event(), sum(map(len, delivered))

    async def own() -> AsyncGenerator[list[WireEvent], None]:
        await all_came.wait()
        yield [WireEvent("!", usage=Usage(1, 1), num_bundled=num_bundled)]

    recipient = bundles.Recipient("", 1)
    for events in delivered:
        recipient.deliver(events)
    all_came.set()
    async with asyncio.timeout(5):
        return [event async for events in recipient.responses(own()) for event in events]


async def test_what_a_slow_client_has_not_fetched_waits_as_one_piece_for_each_choice() -> None:
    words = [[WireEvent(f"{number} ", number % 2, 1)] for number in range(2000)]
    *waited, last = await fetched(*words, [WireEvent("end", 1, 2, "stop")])
    assert [(event.index, event.num_tokens, event.finish_reason) for event in waited] == [
        (0, 1000, None),
        (1, 1002, "stop"),
    ]
    assert waited[0].text == "".join(f"{number} " for number in range(0, 2000, 2))
    assert waited[1].text == "".join(f"{number} " for number in range(1, 2000, 2)) + "end"
    assert last.text == "!"


async def test_what_is_not_just_text_waits_as_it_came() -> None:
    call = [ToolCallPart(0, "c", "f")]
    probable = [TokenLogprob("a", -1.0, [97], [])]
    odd = [
        WireEvent(reasoning="So", num_tokens=1),
        WireEvent("a", num_tokens=1),
        WireEvent(tool_calls=call, num_tokens=1),
        WireEvent("b", num_tokens=1, logprobs=list(probable)),
        WireEvent("c", num_tokens=1, logprobs=list(probable)),
        WireEvent("d", num_tokens=1),
    ]
    *waited, _ = await fetched(*([event] for event in odd))
    assert [event.text for event in waited] == ["", "a", "", "bc", "d"]
    assert waited[3].logprobs == probable * 2
    assert (waited[0].reasoning, waited[2].tool_calls) == ("So", call)
