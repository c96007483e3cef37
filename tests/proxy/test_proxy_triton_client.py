"""The gRPC side of the seam, against a server that speaks Triton's protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
import pytest_asyncio

from proxy import endings
from proxy.backend import (
    GenerateRequest,
    Load,
    ModelDescription,
    ModelState,
    Piece,
    Prompt,
    TokenLogprob,
    Tokens,
    TopLogprob,
    Usage,
)
from proxy.errors import (
    ApiError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    ProcessDeadError,
    UnavailableError,
)
from proxy.fan_out import generate_all
from proxy.triton_client import TritonBackend
from tests.proxy.fake_triton import DESCRIPTION, USAGE, FakeTriton, failure, piece, response, running

STREAM = GenerateRequest(
    Prompt(messages=[{"role": "user", "content": "Hi 🙂"}]), {"temperature": 0.5, "stop": ["a"]}, True, "id-1"
)


@pytest_asyncio.fixture
async def triton() -> AsyncIterator[FakeTriton]:
    async with running(FakeTriton()) as triton:
        yield triton


@pytest_asyncio.fixture
async def client(triton: FakeTriton) -> AsyncIterator[TritonBackend]:
    client = TritonBackend(f"127.0.0.1:{triton.port}")
    yield client
    await client.close()


async def collect(client: TritonBackend, request: GenerateRequest = STREAM) -> list[list[Piece]]:
    return [list(pieces) async for pieces in client.generate("primary", request)]


async def test_a_request_crosses_as_the_contract_has_it(client: TritonBackend, triton: FakeTriton) -> None:
    await collect(client)
    (inputs,) = triton.requests
    assert inputs.pop("messages") == '[{"role":"user","content":"Hi 🙂"}]'
    assert json.loads(inputs.pop("sampling_parameters")) == {"temperature": 0.5, "stop": ["a"]}
    assert inputs == {"model": "primary", "id": "id-1", "stream": True, "acknowledge": True}


async def test_pieces_arrive_response_by_response(client: TritonBackend) -> None:
    assert await collect(client) == [
        [Piece(0, "Hello", 1)],
        [Piece(0, " world", 1), Piece(0, "", 0, "stop", Usage(3, 2, 1))],
    ]


async def test_a_finished_answer_is_not_cancelled(client: TritonBackend, triton: FakeTriton) -> None:
    await collect(client)
    await asyncio.wait_for(triton.finished.wait(), 2)
    assert not triton.cancelled.is_set()


class LateEnd:
    """Triton's script: the last response, and the call's end when the test lets it come."""

    def __init__(self, *events: tuple[str, dict[str, Any]]) -> None:
        self.last = response(*events, final=True)
        self.may_end = asyncio.Event()

    async def __call__(self, inputs: Any, context: Any) -> AsyncIterator[Any]:
        yield self.last
        await self.may_end.wait()


WHOLE = ("x", piece(0, 1, "stop", usage=USAGE))


async def leave(client: TritonBackend) -> None:
    pieces = client.generate("primary", STREAM)
    await anext(pieces)
    await pieces.aclose()


async def several_prompts(client: TritonBackend) -> None:
    whole = GenerateRequest(Prompt(text="Hi"), {}, False)  # streams would share a bundle, which may be cancelled
    pieces = [piece async for some in generate_all(client, "primary", [whole, whole], 1) for piece in some]
    assert sorted(piece.index for piece in pieces) == [0, 1]


async def refused(client: TritonBackend) -> None:
    with pytest.raises(InvalidRequestError):
        await collect(client)


async def refused_to_tokenize(client: TritonBackend) -> None:
    with pytest.raises(InvalidRequestError):
        await client.tokenize("primary", Prompt(text="Hi"))


@pytest.mark.parametrize(
    ("ask", "last"),
    [
        (collect, WHOLE),
        (leave, WHOLE),
        (several_prompts, WHOLE),
        (refused, ("", {"error": {"kind": "invalid_request", "message": "Why."}})),
        (refused_to_tokenize, ("", {"error": {"kind": "invalid_request", "message": "Why."}})),
    ],
)
async def test_no_call_is_cancelled_between_its_last_response_and_its_end(
    client: TritonBackend, triton: FakeTriton, ask: Any, last: Any
) -> None:
    """Triton kept such requests for ever, and their model: every answer to completions, and every refusal.

    Nor is the end waited for: no asker sees it.
    """
    script = triton.script = LateEnd(last)
    await asyncio.wait_for(ask(client), 2)
    await client.index()  # by the same connection, so that a cancel has arrived
    script.may_end.set()
    await client.close()  # waits for what has not ended
    await asyncio.wait_for(triton.finished.wait(), 2)
    assert not triton.cancelled.is_set()


async def test_a_call_that_does_not_end_is_cancelled_after_all(
    client: TritonBackend, triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "_END_SECONDS", 0.1)
    triton.script = LateEnd(WHOLE)
    await collect(client)
    await asyncio.wait_for(triton.cancelled.wait(), 2)


async def test_an_error_after_the_whole_answer_spoils_nothing(client: TritonBackend, triton: FakeTriton) -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        yield response(("x", piece(0, 1, "stop", usage=USAGE)))
        await context.abort(grpc.StatusCode.INTERNAL, "too late")

    triton.script = script
    assert len(await collect(client)) == 1


async def test_closing_the_pieces_cancels_the_call(client: TritonBackend, triton: FakeTriton) -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        yield response(("Hello", piece(0)))
        await asyncio.Event().wait()

    triton.script = script
    pieces = client.generate("primary", STREAM)
    await anext(pieces)
    await pieces.aclose()
    await asyncio.wait_for(triton.cancelled.wait(), 2)


async def test_cancelling_the_waiting_task_cancels_the_call(client: TritonBackend, triton: FakeTriton) -> None:
    started = asyncio.Event()

    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        started.set()
        await asyncio.Event().wait()
        yield None

    triton.script = script
    task = asyncio.create_task(collect(client))
    await asyncio.wait_for(started.wait(), 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(triton.cancelled.wait(), 2)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("invalid_request", 400),
        ("overloaded", 429),
        ("unavailable", 503),
        ("timeout", 504),
        ("internal", 500),
    ],
)
async def test_the_engines_failure_is_raised_after_what_came_before(
    client: TritonBackend, triton: FakeTriton, kind: str, status: int
) -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        error = {"kind": kind, "message": "Why.", "code": "some_code", "param": "messages"}
        yield response(("He", piece(0)), ("", {"error": error}), final=True)

    triton.script = script
    pieces = client.generate("primary", STREAM)
    assert await anext(pieces) == [Piece(0, "He", 1)]
    with pytest.raises(ApiError) as caught:
        await anext(pieces)
    error = caught.value
    assert (error.status, error.message, error.code, error.param) == (status, "Why.", "some_code", "messages")


async def test_a_call_that_finds_the_process_dead_fails_all_others_with_it(
    client: TritonBackend, triton: FakeTriton
) -> None:
    """Triton found it out for each anew, a second each: a pulse behind others took more than five."""
    may_fail = asyncio.Event()

    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        if inputs.get("task") == "detokenize":
            await may_fail.wait()
            yield failure("Stub process 'primary_0_0' is not healthy.")
        elif inputs.get("task") != "tokenize":
            yield response(("Hello", piece(0)))
        await asyncio.Event().wait()

    triton.script = script
    pieces = client.generate("primary", STREAM)
    await anext(pieces)
    waiting = asyncio.create_task(client.tokenize("primary", Prompt(text="Hi")))
    finding = asyncio.create_task(client.detokenize("primary", [1]))
    await client.index()  # by the same connection, so that both have been asked
    may_fail.set()
    async with asyncio.timeout(2):
        for rest in (anext(pieces), waiting):
            with pytest.raises(ProcessDeadError, match="'primary' is not available: its process has died"):
                await rest
        with pytest.raises(ProcessDeadError):
            await finding


@pytest.mark.parametrize(
    ("script_messages", "expected"),
    [
        ([], UnavailableError),
        ([response(final=True)], UnavailableError),
        ([response(("Hello", piece(0)))], UnavailableError),
        ([response(("Hello", piece(0, 1, "stop")), final=True)], UnavailableError),
        ([failure("Stub process 'primary_0_0' is not healthy.")], UnavailableError),
        ([failure("Request for unknown model: 'primary' is not at ready state")], UnavailableError),
        ([failure("AttributeError: 'secret'")], InternalError),
        ([failure("Request for unknown model: 'primary' is not found")], UnavailableError),
        ([response(("x", {"index": "zero"}))], InternalError),
        ([response(("x", piece(0, 1, "tired")))], InternalError),
    ],
)
async def test_every_broken_answer_is_a_typed_error(
    client: TritonBackend, triton: FakeTriton, script_messages: list[Any], expected: type[ApiError]
) -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        for message in script_messages:
            yield message

    triton.script = script
    with pytest.raises(expected):
        await collect(client)


CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", CODES)
async def test_every_grpc_status_is_a_typed_error(client: TritonBackend, triton: FakeTriton, code: Any) -> None:
    """CANCELLED from the server arrives as CancelledError, which must not pass for a client that left."""

    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        await context.abort(code, "secret")
        yield None

    triton.script = script
    expected = {
        "UNAVAILABLE": UnavailableError,
        "NOT_FOUND": UnavailableError,
        "CANCELLED": UnavailableError,
        "DEADLINE_EXCEEDED": DeadlineError,
    }.get(code.name, InternalError)
    with pytest.raises(expected) as caught:
        await collect(client)
    assert "secret" not in caught.value.message
    triton.index_failure = code
    with pytest.raises(expected):
        await client.index()


async def test_no_server_at_all_is_unavailable_and_names_the_address() -> None:
    client = TritonBackend("127.0.0.1:9")
    for call in (collect(client), client.index(), client.describe("primary")):
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9 cannot be reached"):
            await call
    await client.close()


async def test_a_server_that_dies_fails_open_streams() -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        yield response(("Hello", piece(0)))
        await asyncio.Event().wait()

    async with running(FakeTriton(script)) as triton:
        client = TritonBackend(f"127.0.0.1:{triton.port}")
        pieces = client.generate("primary", STREAM)
        await anext(pieces)
    with pytest.raises(UnavailableError):
        await anext(pieces)
    await client.close()


async def test_a_server_that_comes_back_is_found_within_seconds() -> None:
    async with running(FakeTriton()) as triton:
        client = TritonBackend(f"127.0.0.1:{triton.port}")
        await client.index()
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await client.index()
        await asyncio.sleep(0.1)
    async with running(triton):
        async with asyncio.timeout(5):
            while True:
                try:
                    await client.index()
                except UnavailableError:
                    await asyncio.sleep(0.1)
                else:
                    break
    await client.close()


async def test_a_server_that_is_slow_to_take_a_connection_is_waited_for(triton: FakeTriton) -> None:
    """On a busy machine it takes more than 100 ms, and was taken for a server that is not there."""
    copying: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", triton.port)
        copying.update({asyncio.create_task(copy(reader, far_writer)), asyncio.create_task(copy(far_reader, writer))})

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as slow:
        client = TritonBackend(f"127.0.0.1:{slow.sockets[0].getsockname()[1]}")
        assert await client.index()
        await client.close()
        await asyncio.wait(copying)


async def test_messages_of_many_megabytes_pass(client: TritonBackend, triton: FakeTriton) -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        text = json.loads(inputs["messages"])[0]["content"]
        yield response((text, piece(0, 1, "stop", usage=USAGE)), final=True)

    triton.script = script
    text = "é" * 6_000_000
    ((only,),) = await collect(client, GenerateRequest(Prompt(messages=[{"role": "user", "content": text}]), {}, False))
    assert only.text == text


async def test_two_hundred_streams_share_one_channel(client: TritonBackend, triton: FakeTriton) -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        name = inputs["id"]
        yield response((f"{name} ", piece(0)))
        await asyncio.sleep(0.05)
        yield response((name, piece(0, 1, "stop", usage=USAGE)), final=True)

    triton.script = script
    requests = [GenerateRequest(Prompt(messages=[]), {}, True, f"id-{n}") for n in range(200)]
    answers = await asyncio.gather(*(collect(client, request) for request in requests))
    for request, answer in zip(requests, answers, strict=True):
        assert "".join(p.text for pieces in answer for p in pieces) == f"{request.request_id} {request.request_id}"


async def test_a_group_describes_itself(client: TritonBackend, triton: FakeTriton) -> None:
    assert await client.describe("primary") == ModelDescription(**DESCRIPTION)
    triton.description = {"name": "too little"}
    with pytest.raises(InternalError):
        await client.describe("primary")


async def test_a_group_says_how_busy_it_is(client: TritonBackend, triton: FakeTriton) -> None:
    load = {"num_running": 1, "num_waiting": 2, "kv_cache_tokens": 3, "kv_cache_used_tokens": 0}

    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        assert inputs["task"] == "load"
        yield response(("", {"load": load} if triton.index else {}), final=True)

    triton.script = script
    assert await client.load("primary") == Load(**load)
    triton.index = []
    with pytest.raises(UnavailableError):
        await client.load("primary")


async def test_the_index_keeps_states_and_reasons(client: TritonBackend, triton: FakeTriton) -> None:
    triton.index = [("primary", "READY", ""), ("b", "UNAVAILABLE", "unloaded"), ("c", "", "")]
    assert await client.index() == [
        ModelState("primary", "READY", ""),
        ModelState("b", "UNAVAILABLE", "unloaded"),
        ModelState("c", "", ""),
    ]


async def test_an_error_in_a_description_keeps_its_kind(client: TritonBackend, triton: FakeTriton) -> None:
    async def fail(inputs: Any, context: Any) -> AsyncIterator[Any]:
        yield response(("", {"error": {"kind": "invalid_request", "message": "No."}}), final=True)

    triton.script = fail
    with pytest.raises(InvalidRequestError, match="No"):
        await collect(client)


async def test_every_kind_of_prompt_reaches_the_model(client: TritonBackend, triton: FakeTriton) -> None:
    for prompt in (Prompt(text="Hi"), Prompt(token_ids=[5, 6], options={"add_special_tokens": False})):
        await collect(client, GenerateRequest(prompt, {}, False))
    first, second = triton.requests
    assert first["text_input"] == "Hi"
    assert second["input_ids"] == [5, 6]
    assert json.loads(second["prompt_options"]) == {"add_special_tokens": False}
    assert not {"messages", "text_input"} & set(second)


async def test_tokens_go_there_and_back(client: TritonBackend, triton: FakeTriton) -> None:
    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        if inputs["task"] == "tokenize":
            yield response(("", {"tokens": {"ids": [5, 6], "texts": ["a", "b"]}}), final=True)
        else:
            yield response(("ab", {"tokens": {"ids": inputs["input_ids"]}}), final=True)

    triton.script = script
    assert await client.tokenize("primary", Prompt(text="ab")) == Tokens([5, 6], ["a", "b"])
    assert await client.detokenize("primary", [5, 6]) == "ab"


async def test_log_probabilities_cross(client: TritonBackend, triton: FakeTriton) -> None:
    entry = {"token": "a", "logprob": -0.5, "bytes": [97]}

    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        event = piece(0, 1, "stop", usage=USAGE, logprobs=[{**entry, "top_logprobs": [entry]}])
        yield response(("a", event), final=True)

    triton.script = script
    ((only,),) = await collect(client, STREAM)
    assert only.logprobs == [TokenLogprob("a", -0.5, [97], [TopLogprob("a", -0.5, [97])])]
