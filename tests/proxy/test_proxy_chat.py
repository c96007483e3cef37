"""Chat completions as a raw HTTP client sees them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from proxy.backend import Piece, Usage
from proxy.errors import InvalidRequestError, OverloadedError, from_kind
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import FakeBackend, respond, say, stall

HELLO = [{"role": "user", "content": "Hi"}]
DONE = "data: [DONE]"


def events(text: str) -> list[Any]:
    """Parse a finished stream; its last event must be [DONE]."""
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == DONE
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_a_plain_answer_is_a_whole_completion(server: Server, backend: FakeBackend) -> None:
    response = await server.chat()
    body = response.json()
    assert response.status_code == 200, body
    assert response.headers["content-type"] == "application/json"
    assert body.pop("id").startswith("chatcmpl-")
    assert abs(body.pop("created") - time.time()) < 5
    assert body == {
        "object": "chat.completion",
        "model": "primary",
        "system_fingerprint": "fp_fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    assert backend.last.stream is False


async def test_a_stream_is_a_role_then_deltas_then_a_finish_reason_then_done(
    server: Server, backend: FakeBackend
) -> None:
    response = await server.chat(stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    chunks = events(response.text)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {key for chunk in chunks for key in chunk} == {
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "choices",
    }
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert backend.last.stream is True


async def test_usage_in_a_stream_comes_last_and_only_on_request(server: Server) -> None:
    response = await server.chat(stream=True, stream_options={"include_usage": True})
    *chunks, last = events(response.text)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    silent = await server.chat(stream=True, stream_options={"include_usage": False})
    assert all("usage" not in chunk for chunk in events(silent.text))


@pytest.mark.parametrize("stream", [False, True])
async def test_each_choice_is_whole_and_indexed(server: Server, stream: bool) -> None:
    response = await server.chat(n=3, stream=stream)
    if not stream:
        choices = response.json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        assert {choice["message"]["content"] for choice in choices} == {"Hello world"}
        return
    texts = {0: "", 1: "", 2: ""}
    roles, reasons = [], []
    for chunk in events(response.text):
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        if "role" in choice["delta"]:
            roles.append(choice["index"])
        if choice["finish_reason"]:
            reasons.append(choice["index"])
    assert set(texts.values()) == {"Hello world"}
    assert sorted(roles) == sorted(reasons) == [0, 1, 2]


async def test_events_merged_into_one_response_stay_in_order(server: Server, backend: FakeBackend) -> None:
    usage = Usage(1, 4)
    backend.script = respond(
        [Piece(1, "b", 1), Piece(0, "a", 1), Piece(1, "", 1, "length"), Piece(0, "é🙂", 1, "stop", usage)]
    )
    chunks = events((await server.chat(stream=True, n=2)).text)
    assert [(c["choices"][0]["index"], c["choices"][0]["delta"]) for c in chunks] == [
        (1, {"role": "assistant", "content": ""}),
        (1, {"content": "b"}),
        (0, {"role": "assistant", "content": ""}),
        (0, {"content": "a"}),
        (1, {}),
        (0, {"content": "é🙂"}),
        (0, {}),
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [
        None,
        None,
        None,
        None,
        "length",
        None,
        "stop",
    ]


async def test_an_empty_answer_is_still_an_answer(server: Server, backend: FakeBackend) -> None:
    backend.script = say("")
    assert (await server.chat()).json()["choices"][0]["message"]["content"] == ""
    deltas = [chunk["choices"][0]["delta"] for chunk in events((await server.chat(stream=True)).text)]
    assert deltas == [{"role": "assistant", "content": ""}, {}]


CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 42}'}}


async def test_what_the_client_sets_reaches_the_engine_and_nothing_else_does(
    server: Server, backend: FakeBackend
) -> None:
    await server.chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "name": "ann",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "42", "tool_call_id": "1"},
        ],
        temperature=0,
        top_p=0.5,
        top_k=-1,
        max_tokens=5,
        max_completion_tokens=6,
        stop="END",
        n=2,
        seed=-(2**63),
        functions=[{"name": "f"}],
        function_call="auto",
        user=17,
        frequency_penalty=None,
    )
    assert backend.last.prompt.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "ab", "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    assert backend.last.sampling_parameters == {
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 0,
        "max_tokens": 6,
        "stop": "END",
        "n": 2,
        "seed": -(2**63),
    }


async def test_null_is_the_same_as_absent(server: Server, backend: FakeBackend) -> None:
    names = ["stream", "stream_options", "temperature", "top_p", "top_k", "max_tokens", "stop", "n", "seed"]
    response = await server.chat(**dict.fromkeys([*names, "max_completion_tokens"]))
    assert response.status_code == 200
    assert backend.last.sampling_parameters == {}


async def test_a_limit_beyond_32_bits_is_clamped(server: Server, backend: FakeBackend) -> None:
    await server.chat(max_tokens=10**18, top_k=10**18)
    assert backend.last.sampling_parameters == {"max_tokens": 2**31 - 1, "top_k": 2**31 - 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_a_plain_error_before_any_stream(server: Server, backend: FakeBackend, stream: bool) -> None:
    backend.script = respond(InvalidRequestError("Too long: 9 > 8.", param="messages", code="context_length_exceeded"))
    response = await server.chat(stream=stream)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "error": {
            "message": "Too long: 9 > 8.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }


@pytest.mark.parametrize(
    ("kind", "status", "type_"),
    [
        ("invalid_request", 400, "invalid_request_error"),
        ("overloaded", 429, "rate_limit_error"),
        ("unavailable", 503, "server_error"),
        ("timeout", 504, "server_error"),
        ("internal", 500, "server_error"),
        ("a kind of the future", 500, "server_error"),
    ],
)
async def test_every_kind_of_engine_failure_has_its_status(
    server: Server, backend: FakeBackend, kind: str, status: int, type_: str
) -> None:
    backend.script = respond(from_kind(kind, "Why.", code=None, param=None))
    response = await server.chat()
    assert response.status_code == status
    assert response.json()["error"]["type"] == type_
    assert ("retry-after" in response.headers) is (status in (429, 503))


async def test_a_failure_after_the_first_byte_is_one_error_event_and_no_done(
    server: Server, backend: FakeBackend
) -> None:
    backend.script = respond([Piece(0, "Hel", 1)], OverloadedError("Too much."))
    response = await server.chat(stream=True)
    assert response.status_code == 200
    *_, last = [line for line in response.text.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"] == {
        "message": "Too much.",
        "type": "rate_limit_error",
        "param": None,
        "code": "server_overloaded",
    }
    assert DONE not in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_tells_nothing_about_internals(
    server: Server, backend: FakeBackend, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend.script = respond(KeyError("secret"))
    response = await server.chat(stream=stream)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["type"] == "server_error"
    assert "KeyError: 'secret'" in caplog.text
    assert response.headers["x-request-id"] in caplog.text


async def test_a_bug_in_the_middle_of_a_stream_tells_nothing_about_internals(
    server: Server, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.script = respond([Piece(0, "a", 1)], KeyError("secret"))
    response = await server.chat(stream=True)
    assert "secret" not in response.text
    assert '"type":"server_error"' in response.text
    assert DONE not in response.text
    assert "KeyError: 'secret'" in caplog.text


async def test_silence_is_filled_with_comments(serve: Serve, backend: FakeBackend) -> None:
    server = await serve(sse_keep_alive=0.05)
    backend.script = say("a", "b", pause=0.2)
    response = await server.chat(stream=True)
    blocks = [block for block in response.text.split("\n\n") if block]
    assert blocks[0] == ": keep-alive"
    assert blocks.count(": keep-alive") >= 4
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in events(response.text)) == "ab"


async def test_a_refusal_later_than_the_keep_alive_is_an_error_event(serve: Serve, backend: FakeBackend) -> None:
    server = await serve(sse_keep_alive=0.05)

    async def script(request: object) -> Any:
        await asyncio.sleep(0.2)
        raise OverloadedError("Too much.")
        yield []

    backend.script = script
    response = await server.chat(stream=True)
    assert response.status_code == 200
    assert response.text.startswith(": keep-alive\n\n")
    assert '"code":"server_overloaded"' in response.text


async def test_no_comment_interrupts_a_stream_that_speaks(serve: Serve, backend: FakeBackend) -> None:
    server = await serve(sse_keep_alive=0.5)
    backend.script = say(*"abcdef", pause=0.02)
    assert ":keep-alive" not in (await server.chat(stream=True)).text.replace(" ", "")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_over_its_deadline_is_a_504(serve: Serve, backend: FakeBackend, stream: bool) -> None:
    server = await serve(response_timeout=0.1)
    backend.script = stall()
    response = await server.chat(stream=stream)
    assert response.status_code == 504
    assert backend.num_open == 0


async def test_a_stream_over_its_deadline_ends_with_an_error_event(serve: Serve, backend: FakeBackend) -> None:
    server = await serve(response_timeout=0.1)
    backend.script = stall([Piece(0, "a", 1)])
    response = await server.chat(stream=True)
    assert response.status_code == 200
    assert "took longer than 0.1 seconds" in response.text
    assert DONE not in response.text


async def test_a_hundred_streams_do_not_mix(server: Server, backend: FakeBackend) -> None:
    async def script(request: Any) -> Any:
        name = (request.prompt.messages or [])[0]["content"]
        for number in range(5):
            await asyncio.sleep(0)
            yield [Piece(0, f"{name}.{number} ", 1)]
        yield [Piece(0, "", 0, "stop", Usage(1, 5))]

    backend.script = script
    contents = [f"client{number}" for number in range(100)]
    responses = await asyncio.gather(
        *(server.chat(stream=True, messages=[{"role": "user", "content": name}]) for name in contents)
    )
    for name, response in zip(contents, responses, strict=True):
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in events(response.text))
        assert text == "".join(f"{name}.{number} " for number in range(5))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_stream_reaches_old_and_new_clients_as_it_is_made(server: Server, version: str) -> None:
    """Clients of HTTP/1.0, nginx by default among them, were sent chunks, which they take for a part of the text."""
    body = json.dumps({"model": "primary", "messages": HELLO, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}"
    answer = await server.send(head.encode() + b"\r\n\r\n" + body)
    headers, _, content = answer.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in headers) == (version == "1.1")
    if version == "1.0":
        assert b"connection: close" in headers
        parsed = events(content.decode())
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in parsed) == "Hello world"


async def test_an_old_client_gets_each_event_at_once(server: Server, backend: FakeBackend) -> None:
    backend.script = stall([Piece(0, "Hello", 1)])
    body = json.dumps({"model": "primary", "messages": HELLO, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    answer = await asyncio.wait_for(reader.readuntil(b'"Hello"'), 5)
    assert b"chunked" not in answer
    writer.close()
    await writer.wait_closed()
    await asyncio.wait_for(backend.closed.wait(), 5)
