"""Takeoff's own API: its fields, its answers, its streams, and that port 3003's manners hold on port 3000 too."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from proxy import native_events
from proxy.backend import GenerateRequest, ModelState, Piece, Prompt, Usage
from proxy.config import ProxyConfig
from proxy.errors import InvalidRequestError, OverloadedError
from proxy.native_response import TextEvent
from proxy.native_routes import NATIVE
from proxy.native_server import create_native_app
from proxy.openapi import description
from proxy.server import create_app
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import FakeBackend, respond, say, stall

Event = tuple[str, str, str]


def events(text: str) -> list[Event]:
    """Name, id and data of each event, as https://html.spec.whatwg.org/multipage/server-sent-events.html reads them."""
    found: list[Event] = []
    name, number, data = "", "", None
    for line in re.split("\r\n|\r|\n", text):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data is not None:
                found.append((name or "message", number, data))
            name, data = "", None
        elif field == "data":
            data = value if data is None else f"{data}\n{value}"
        elif field == "event":
            name = value
        elif field == "id":
            number = value
    return found


def said(text: str) -> str:
    return "".join(data for name, _, data in events(text) if name == "message")


async def generate(server: Server, text: Any = "Hi", path: str = "/generate", **fields: Any) -> httpx.Response:
    return await server.http.post(path, json={"text": text, **fields})


async def refreshed(server: Server) -> None:
    """The first refresh may be one that was under way before."""
    for _ in range(2):
        await server.app.ctx.context.groups.refresh()


def sampling(backend: FakeBackend) -> dict[str, Any]:
    return backend.last.sampling_parameters


async def test_a_text_is_answered_with_a_text(native: Server, backend: FakeBackend) -> None:
    response = await generate(native)
    assert response.status_code == 200
    assert response.json() == {"text": "Hello world"}
    assert backend.requests[-1][0] == "primary"
    assert backend.last.prompt == Prompt(text="Hi")
    assert not backend.last.stream


async def test_a_list_is_answered_with_a_list_in_its_order(native: Server, backend: FakeBackend) -> None:
    async def script(request: GenerateRequest) -> Any:
        text = request.prompt.text or ""
        await asyncio.sleep(0.02 if text == "a" else 0)
        yield [Piece(0, text.upper(), 1, "stop", Usage(1, 1))]

    backend.script = script
    response = await generate(native, ["a", "b", "c"], return_metadata=True)
    assert response.json() == {
        "text": ["A", "B", "C"],
        "metadata": {
            "prompt_tokens": 3,
            "cached_tokens": 0,
            "generated_tokens": 3,
            "finish_reason": ["stop", "stop", "stop"],
        },
    }
    assert (await generate(native, ["a"])).json() == {"text": ["A"]}


async def test_a_stream_is_the_text_of_the_whole_answer(native: Server, backend: FakeBackend) -> None:
    backend.script = say("A line\n", "  and\nanother", "", " \n\n", "end")
    response = await generate(native, path="/generate_stream")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert said(response.text) == "A line\n  and\nanother \n\nend" == (await generate(native)).json()["text"]
    assert "[DONE]" not in response.text


async def test_a_streams_last_event_is_the_metadata_that_was_asked_for(native: Server) -> None:
    response = await generate(native, path="/generate_stream", return_metadata=True)
    name, _, data = events(response.text)[-1]
    assert name == "metadata"
    metadata = json.loads(data)
    assert metadata == {"prompt_tokens": 7, "cached_tokens": 4, "generated_tokens": 2, "finish_reason": "stop"}
    assert (await generate(native, return_metadata=True)).json()["metadata"]["generated_tokens"] == 2


async def test_a_streams_ids_tell_the_prompts_of_a_list_apart(native: Server) -> None:
    response = await generate(native, ["a", "b"], path="/generate_stream")
    for number in ("0", "1"):
        assert "".join(data for _, id_, data in events(response.text) if id_ == number) == "Hello world"


@given(st.lists(st.text(min_size=1)))
def test_any_text_comes_out_of_its_events_but_for_the_kind_of_its_line_breaks(texts: list[str]) -> None:
    wire = native_events.encode(TextEvent(text) for text in texts).decode()
    assert said(wire) == "".join(text.replace("\r\n", "\n").replace("\r", "\n") for text in texts)


async def test_every_field_reaches_the_engine_by_its_own_name(native: Server, backend: FakeBackend) -> None:
    await generate(
        native,
        consumer_group="second",
        sampling_temperature=0.7,
        sampling_topp=0.9,
        sampling_topk=40,
        max_new_tokens=5,
        min_new_tokens=2,
        repetition_penalty=1.1,
        regex_string="[0-9]+",
    )
    assert backend.requests[-1][0] == "second"
    assert sampling(backend) == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 5,
        "min_tokens": 2,
        "repetition_penalty": 1.1,
        "grammar": {"regex": "[0-9]+"},
    }


async def test_without_settings_the_answer_is_the_likeliest_and_short(native: Server, backend: FakeBackend) -> None:
    await generate(native, sampling_temperature=None, json_schema=None, no_repeat_ngram_size=3, lora_id=None)
    assert sampling(backend) == {"max_tokens": 128, "top_k": 1}
    await generate(native, sampling_temperature=0.5)
    assert sampling(backend) == {"max_tokens": 128, "temperature": 0.5}


@pytest.mark.parametrize("schema", [{"type": "object"}, '{"type": "object"}'])
async def test_a_schema_may_be_an_object_or_a_text(native: Server, backend: FakeBackend, schema: Any) -> None:
    await generate(native, json_schema=schema)
    assert sampling(backend)["grammar"] == {"json_schema": {"type": "object"}}


async def test_a_chat_template_takes_the_text_for_a_users_turn(native: Server, backend: FakeBackend) -> None:
    await generate(native, use_chat_template=True)
    assert backend.last.prompt == Prompt(messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("limit", "kept"), [(3, "Ho!"), (4, "Ho!"), (5, "\u00e9Ho!"), (6, "x\u00e9Ho!"), (9, "x\u00e9Ho!")]
)
async def test_a_text_that_is_too_long_keeps_its_end_and_no_half_character(
    native: Server, backend: FakeBackend, limit: int, kept: str
) -> None:
    """The fake's tokens are bytes, and the accented letter is two of them."""
    await generate(native, "x\u00e9Ho!", prompt_max_tokens=limit)
    assert backend.last.prompt.text == kept


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": None}, "text"),
        ({"text": []}, "text"),
        ({"text": ["a"] * 65}, "text"),
        ({"text": 3}, "text"),
        ({"consumer_group": ""}, "consumer_group"),
        ({"sampling_temperature": 2.1}, "sampling_temperature"),
        ({"sampling_topp": 0}, "sampling_topp"),
        ({"sampling_topk": -2}, "sampling_topk"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"prompt_max_tokens": 0}, "prompt_max_tokens"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": []}, "json_schema"),
        ({"json_schema": {}, "regex_string": "a"}, "regex_string"),
        ({"return_metadata": "yes"}, "return_metadata"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_what_is_wrong_is_a_400_that_names_the_field(
    native: Server, backend: FakeBackend, path: str, fields: dict[str, Any], param: str
) -> None:
    response = await native.http.post(path, json={"text": "Hi", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not backend.requests


async def test_an_unknown_group_is_a_404_that_names_takeoffs_field(native: Server) -> None:
    response = await generate(native, consumer_group="third")
    assert response.status_code == 404
    assert response.json()["error"]["param"] == "consumer_group"
    assert "'primary', 'second'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("engine", "native_name", "fields"),
    [
        ("text_input", "text", {}),
        ("max_tokens", "max_new_tokens", {}),
        ("grammar", "regex_string", {"regex_string": "("}),
        ("grammar", "json_schema", {"json_schema": {"type": "x"}}),
    ],
)
async def test_the_engines_refusals_name_takeoffs_fields(
    native: Server, backend: FakeBackend, engine: str, native_name: str, fields: dict[str, Any]
) -> None:
    backend.script = respond(InvalidRequestError("No.", param=engine))
    response = await generate(native, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, native_name)


async def test_a_failure_within_a_stream_is_an_event_of_its_own(native: Server, backend: FakeBackend) -> None:
    backend.script = respond([Piece(0, "Hel", 1)], OverloadedError("Full."))
    response = await generate(native, path="/generate_stream")
    assert response.status_code == 200
    assert [name for name, _, _ in events(response.text)] == ["message", "error"]
    assert json.loads(events(response.text)[-1][2])["error"]["message"] == "Full."


async def test_a_failure_before_a_stream_is_a_plain_error(native: Server, backend: FakeBackend) -> None:
    backend.script = respond(OverloadedError("Full."))
    response = await generate(native, path="/generate_stream")
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"


async def test_a_client_that_leaves_frees_the_engine(native: Server, backend: FakeBackend) -> None:
    backend.script = stall([Piece(0, "Hel", 1)])
    async with native.http.stream("POST", "/generate_stream", json={"text": ["a", "b"]}) as response:
        async for _ in response.aiter_bytes():
            break
    await asyncio.wait_for(backend.closed.wait(), 5)
    async with asyncio.timeout(5):
        while backend.num_open:  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.01)


async def test_keys_limits_and_origins_are_those_of_the_other_port(serve_native: Serve) -> None:
    native = await serve_native(
        api_keys=("sk-a",), max_requests_per_minute=1, cors_origins=("https://a.example",), max_body_bytes=100
    )
    assert (await generate(native)).status_code == 401
    assert (await native.http.get("/status")).status_code == 401
    assert (await native.http.get("/healthz")).status_code == 200
    native.http.headers.update({"authorization": "Bearer sk-a", "origin": "https://a.example", "x-request-id": "mine"})
    first, second = await generate(native), await generate(native)
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["x-request-id"] == "mine"
    assert first.headers["access-control-allow-origin"] == "https://a.example"
    assert (await generate(native, "x" * 101)).status_code == 429
    assert (await native.http.get("/nowhere")).json()["error"]["type"] == "invalid_request_error"


async def test_the_status_says_how_each_group_is(native: Server, backend: FakeBackend) -> None:
    backend.states = [ModelState("primary", "READY"), ModelState("second", "UNAVAILABLE", "no memory")]
    await refreshed(native)
    response = await native.http.get("/status")
    first, second = response.json()["groups"]
    assert response.json()["status"] == "live"
    assert first["consumer_group"] == "primary"
    assert first["model_name"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert first["max_sequence_length"] == 2048
    assert second == {"consumer_group": "second", "state": "unavailable", "reason": "no memory", "replicas": 1}
    assert (await native.http.get("/healthz")).status_code == 200
    backend.states = []
    await refreshed(native)
    assert (await native.http.get("/status")).json()["status"] == "unavailable"
    assert (await native.http.get("/healthz")).status_code == 503


async def test_the_status_says_how_busy_each_ready_group_is(native: Server, backend: FakeBackend) -> None:
    backend.script = stall([Piece(0, "Hel", 1)])
    backend.states = [ModelState("primary", "READY"), ModelState("second", "LOADING")]
    await refreshed(native)
    async with native.http.stream("POST", "/generate_stream", json={"text": "a"}) as response:
        chunks = response.aiter_bytes()  # httpx closes the response with the iterator
        await anext(chunks)
        first, second = (await native.http.get("/status")).json()["groups"]
    assert first["load"] == {"running": 1, "waiting": 0, "kv_cache_tokens": 32768, "kv_cache_usage": 256 / 32768}
    assert "load" not in second


async def test_however_many_look_a_group_is_asked_for_its_load_once_in_a_while(
    native: Server, backend: FakeBackend
) -> None:
    backend.states = [ModelState("primary", "READY")]
    await refreshed(native)
    for _ in range(3):
        await asyncio.gather(*(native.http.get("/status") for _ in range(10)))
    assert backend.num_load_calls <= 3  # half a second, on a machine that others use


@pytest.mark.parametrize("failure", [OverloadedError("Full."), RuntimeError("a bug")])
async def test_a_group_that_does_not_say_how_busy_it_is_is_shown_without(
    native: Server, backend: FakeBackend, failure: Exception
) -> None:
    backend.load_failure = failure
    response = await native.http.get("/status")
    assert response.status_code == 200
    assert all("load" not in group for group in response.json()["groups"])


async def test_a_group_that_is_slow_to_say_keeps_nobody_waiting(native: Server, backend: FakeBackend) -> None:
    backend.load_gate.clear()
    began = time.monotonic()
    assert all("load" not in group for group in (await native.http.get("/status")).json()["groups"])
    assert time.monotonic() - began < 8


async def test_the_chat_of_the_page_is_the_chat_of_the_other_port(native: Server) -> None:
    assert (await native.chat()).json()["choices"][0]["message"]["content"] == "Hello world"
    assert [model["id"] for model in (await native.http.get("/v1/models")).json()["data"]] == ["primary", "second"]


def test_the_native_description_is_valid_and_names_every_route() -> None:
    validate(description(NATIVE))
    app = create_native_app(ProxyConfig(), create_app(ProxyConfig(), FakeBackend(), name="first"), name="described")
    real = {
        (method.lower(), "/" + re.sub(r"<\w+:path>", "{id}", route.path))
        for route in app.router.routes
        for method in route.methods
        if method in ("GET", "POST")
    }
    described = {(method, path) for path, methods in description(NATIVE)["paths"].items() for method in methods}
    # What is for people only: the page, and the description itself.
    pages = {("get", "/"), ("get", "/page/<name:str>"), ("get", "/docs"), ("get", "/openapi.json")}
    assert real - pages == described
    for name in ("first", "described"):
        type(app).unregister_app(type(app).get_app(name))
