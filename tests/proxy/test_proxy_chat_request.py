"""Bad bodies get a 400 that names the field; no body gets a 5xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.chat_request import parse
from proxy.config import ProxyConfig
from proxy.errors import ApiError, InvalidRequestError
from tests.proxy.conftest import Serve, Server, serving
from tests.proxy.fakes import FakeBackend

USER = {"role": "user", "content": "Hi"}


def body(**fields: Any) -> bytes:
    asked = {"model": "primary", "messages": [USER], **fields}
    return json.dumps({name: value for name, value in asked.items() if value is not ...}).encode()


def message(**fields: Any) -> bytes:
    return body(messages=[USER, fields])


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


WRONG_FIELDS = [
    (body(model=...), "model"),
    (body(model=None), "model"),
    (body(model=5), "model"),
    (body(model=""), "model"),
    (body(model=["primary"]), "model"),
    (body(messages=...), "messages"),
    (body(messages=None), "messages"),
    (body(messages=[]), "messages"),
    (body(messages="Hi"), "messages"),
    (body(messages=["Hi"]), "messages"),
    (body(messages=[None]), "messages"),
    (body(messages={"role": "user"}), "messages"),
    (body(presence_penalty=2.1), "presence_penalty"),
    (body(frequency_penalty=-2.1), "frequency_penalty"),
    (body(repetition_penalty=0), "repetition_penalty"),
    (body(min_p=1.1), "min_p"),
    (body(logit_bias=[1]), "logit_bias"),
    (body(logit_bias={"a": 1}), "logit_bias"),
    (body(logit_bias={"1": 101}), "logit_bias"),
    (body(logit_bias={str(token): 1 for token in range(1025)}), "logit_bias"),
    (body(logprobs=5), "logprobs"),
    (body(top_logprobs=5), "top_logprobs"),
    (body(logprobs=False, top_logprobs=5), "top_logprobs"),
    (body(logprobs=True, top_logprobs=21), "top_logprobs"),
    (body(min_tokens=-1), "min_tokens"),
    (body(stop_token_ids=[-1]), "stop_token_ids"),
    (body(stop_token_ids=list(range(65))), "stop_token_ids"),
    (body(ignore_eos="yes"), "ignore_eos"),
    (body(timeout=0), "timeout"),
    (body(chat_template_kwargs=[]), "chat_template_kwargs"),
    (body(add_generation_prompt=True, continue_final_message=True), "continue_final_message"),
    (message(), "messages"),
    (message(content="Hi"), "messages"),
    (message(role="user"), "messages"),
    (message(role="user", content=None), "messages"),
    (message(role="system", content=None), "messages"),
    (message(role="tool", content=None), "messages"),
    (message(role="robot", content="Hi"), "messages"),
    (message(role="function", content="Hi"), "messages"),
    (message(role=5, content="Hi"), "messages"),
    (message(role="user", content=5), "messages"),
    (message(role="user", content={"type": "text", "text": "Hi"}), "messages"),
    (message(role="user", content=["Hi"]), "messages"),
    (message(role="user", content=[{"text": "Hi"}]), "messages"),
    (message(role="user", content=[{"type": "text"}]), "messages"),
    (message(role="user", content=[{"type": "text", "text": None}]), "messages"),
    (message(role="user", content=[{"type": "text", "text": 5}]), "messages"),
    (message(role="user", content=[{"type": "image_url", "image_url": {"url": "x"}}]), "messages"),
    (message(role="user", content=[{"type": "input_audio"}]), "messages"),
    (message(role="user", name=5, content="Hi"), "messages"),
    (message(role="assistant", tool_calls="x"), "messages"),
    (message(role="assistant", tool_calls=[{"id": "1", "type": "function"}]), "messages"),
    (message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": {}}}]), "messages"),
    (body(tools="x"), "tools"),
    (body(tools=[{"type": "function"}]), "tools"),
    (body(tools=[{"type": "web_search"}]), "tools"),
    (body(tools=[tool("")]), "tools"),
    (body(tools=[tool("a b")]), "tools"),
    (body(tools=[tool("x" * 65)]), "tools"),
    (body(tools=[tool("f", parameters="x")]), "tools"),
    (body(tools=[tool("f")] * 129), "tools"),
    (body(tool_choice="required"), "tool_choice"),
    (body(tool_choice="sometimes", tools=[tool("f")]), "tool_choice"),
    (body(tool_choice={"type": "function"}, tools=[tool("f")]), "tool_choice"),
    (body(tool_choice={"type": "function", "function": {"name": "g"}}, tools=[tool("f")]), "tool_choice"),
    (body(tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice"),
    (body(parallel_tool_calls="yes", tools=[tool("f")]), "parallel_tool_calls"),
    (body(response_format=1), "response_format"),
    (body(response_format="json_object"), "response_format"),
    (body(response_format={"type": "xml"}), "response_format"),
    (body(response_format={"type": "json_schema"}), "response_format"),
    (body(response_format={"type": "json_schema", "json_schema": {"name": "n"}}), "response_format"),
    (body(response_format={"type": "json_schema", "json_schema": {"schema": {}}}), "response_format"),
    (body(response_format=json_schema("x")), "response_format"),
    (body(response_format={"type": "json_object"}, guided_regex="a"), "guided_regex"),
    (body(structured_outputs={"regex": "a", "json": {}}), "structured_outputs"),
    (body(guided_json="{"), "guided_json"),
    (body(guided_json='"x"'), "guided_json"),
    (body(guided_choice=[]), "guided_choice"),
    (body(guided_choice=[""]), "guided_choice"),
    (body(guided_choice="a"), "guided_choice"),
    (message(role="tool", tool_call_id=5, content="x"), "messages"),
    (body(stream="true"), "stream"),
    (body(stream=1), "stream"),
    (body(stream_options={"include_usage": True}), "stream_options"),
    (body(stream=False, stream_options={}), "stream_options"),
    (body(stream=True, stream_options=True), "stream_options"),
    (body(stream=True, stream_options={"include_usage": "yes"}), "stream_options"),
    (body(temperature=-0.1), "temperature"),
    (body(temperature=2.1), "temperature"),
    (body(temperature="1"), "temperature"),
    (body(temperature=True), "temperature"),
    (body(temperature=[1]), "temperature"),
    (body(top_p=0), "top_p"),
    (body(top_p=1.01), "top_p"),
    (body(top_p=-1), "top_p"),
    (body(top_p="0.5"), "top_p"),
    (body(top_k=-2), "top_k"),
    (body(top_k=1.5), "top_k"),
    (body(max_tokens=0), "max_tokens"),
    (body(max_tokens=-1), "max_tokens"),
    (body(max_tokens=1.5), "max_tokens"),
    (body(max_tokens="5"), "max_tokens"),
    (body(max_tokens=True), "max_tokens"),
    (body(max_completion_tokens=0), "max_completion_tokens"),
    (body(max_completion_tokens=0, max_tokens=5), "max_completion_tokens"),
    (body(stop=5), "stop"),
    (body(stop=""), "stop"),
    (body(stop=[""]), "stop"),
    (body(stop=["a", None]), "stop"),
    (body(stop=["a", "b", "c", "d", "e"]), "stop"),
    (body(n=0), "n"),
    (body(n=9), "n"),
    (body(n=10**30), "n"),
    (body(n="2"), "n"),
    (body(seed="1"), "seed"),
    (body(seed=1.5), "seed"),
    (body(seed=2**63), "seed"),
    (body(seed=-(2**63) - 1), "seed"),
    (b'{"model":"primary","messages":[{"role":"user","content":"Hi"}],"temperature":1e999}', "temperature"),
    (
        b'{"model":"primary","messages":[{"role":"user","content":"Hi"}],"seed":' + b"9" * 10_000 + b"}",
        "seed",
    ),
    (b"{}", "model"),
]

UNREADABLE = [
    b"",
    b"  ",
    b"{",
    b"nonsense",
    b"[]",
    b"null",
    b'"text"',
    b"5",
    body() + b"x",
    body()[:-1],
    b"\xef\xbb\xbf" + body(),
    body().decode().encode("utf-16"),
    body()[:-1] + b',"temperature":NaN}',
    body()[:-1] + b',"temperature":Infinity}',
    body()[:-1] + b',"model":"second"}',
    body()[:-1] + b',"user":{"a":1,"a":2}}',
    body()[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    body()[:-1] + b',"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    b"[" * 10_000,
    body().replace(b"Hi", b"\xff"),
    body().replace(b"Hi", b"\xed\xa0\x80"),
    body().replace(b"Hi", b"\\ud800"),
    body().replace(b"Hi", b"\\udc00"),
    body().replace(b"Hi", b"\n"),
    body()[:-1] + b',"x":"\xff"}',
    body().replace(b'"', b"'"),
]


@pytest.mark.parametrize(("data", "param"), WRONG_FIELDS)
async def test_a_wrong_field_is_refused_by_name(server: Server, data: bytes, param: str) -> None:
    response = await server.http.post("/v1/chat/completions", content=data)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["code"] is None
    assert param in error["message"]


@pytest.mark.parametrize("data", UNREADABLE)
async def test_an_unreadable_body_is_refused(server: Server, data: bytes) -> None:
    response = await server.http.post("/v1/chat/completions", content=data)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    assert 20 < len(error["message"]) < 200


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "data",
    [
        body(model=LONG),
        body()[:-1] + b',"%b":1,"%b":1}' % (LONG.encode(), LONG.encode()),
        message(role=LONG, content="Hi"),
        message(role="user", content=[{"type": LONG}]),
    ],
)
async def test_an_error_does_not_repeat_everything_it_was_sent(server: Server, data: bytes) -> None:
    response = await server.http.post("/v1/chat/completions", content=data)
    assert response.status_code in (400, 404)
    assert len(response.content) < 600


@pytest.mark.parametrize("part", ["image_url", "input_audio", "file", "refusal"])
def test_parts_that_are_not_text_are_refused_for_what_they_are(part: str) -> None:
    with pytest.raises(InvalidRequestError, match="takes text only"):
        parse(message(role="user", content=[{"type": part}]), 8, 4096)


GOOD = [
    {"temperature": 0},
    {"temperature": 2},
    {"temperature": 1e-300},
    {"top_p": 1},
    {"top_p": 1e-9},
    {"top_k": 0},
    {"stop": []},
    {"stop": ["a", "b", "c", "d"]},
    {"n": 8},
    {"seed": 2**63 - 1},
    {"seed": 0},
    {"max_tokens": 1},
    {"stream": True, "stream_options": {"include_usage": None}},
    {"stream": True, "stream_options": {}},
    {"logit_bias": {"5": -100, "6": 100}, "logprobs": True, "top_logprobs": 20},
    {"logprobs": False},
    {"presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 10, "min_p": 1},
    {"min_tokens": 0, "stop_token_ids": [], "ignore_eos": True, "timeout": 0.5},
    {"chat_template_kwargs": {"enable_thinking": False}, "continue_final_message": True},
    {"functions": 5, "function_call": [], "store": 7, "": 1},
    {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False},
    {"tools": [tool("f"), tool("g-1.x", parameters={"type": "object"}, strict=True, description="d")]},
    {"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"tools": [tool("f")], "tool_choice": "none"},
    {"response_format": {"type": "text"}, "guided_regex": "a"},
    {"response_format": {"type": "json_object"}},
    {"response_format": json_schema(True)},
    {"guided_json": '{"type": "object"}'},
    {"structured_outputs": {"json": {"type": "object"}}},
    {"structured_outputs": {}},
    {"guided_choice": ["a", "b"]},
]


@pytest.mark.parametrize("fields", GOOD)
async def test_the_edges_of_what_is_allowed_are_allowed(server: Server, fields: dict[str, Any]) -> None:
    assert (await server.chat(**fields)).status_code == 200


async def test_the_highest_n_is_a_setting(serve: Serve) -> None:
    server = await serve(max_choices=2)
    assert (await server.chat(n=2)).status_code == 200
    response = await server.chat(n=3)
    assert response.status_code == 400
    assert "at most 2" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("", 200),
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("json", 415),
    ],
)
async def test_only_an_explicit_other_content_type_is_refused(
    server: Server, content_type: str | None, status: int
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await server.http.post("/v1/chat/completions", content=body(), headers=headers)
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
@pytest.mark.parametrize("content_type", [None, ""])
async def test_a_web_page_must_say_that_it_sends_json(serve: Serve, path: str, content_type: str | None) -> None:
    """Without a type its body goes to any server; with that of JSON its browser asks first whether it may."""
    server = await serve(host="0.0.0.0")
    headers = {"origin": "https://a.example"} | ({} if content_type is None else {"content-type": content_type})
    response = await server.http.post(path, content=body(), headers=headers)
    assert response.status_code == 415


def test_text_of_any_script_passes_unchanged() -> None:
    text = 'héllo 🙂 \u0000 \u2028 \\ " </s> \U0010ffff'
    assert (parse(message(role="user", content=text), 8, 4096).prompt.messages or [])[1]["content"] == text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant", "text", "primary"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "max_tokens",
        "stop",
        "n",
    ]
)
parts = st.fixed_dictionaries({}, optional={"type": json_values, "text": json_values})
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "tool"]) | json_values,
            "content": st.lists(parts, max_size=2) | json_values,
            "tool_calls": json_values,
            "name": json_values,
        },
    ),
    max_size=3,
)
bodies = st.one_of(
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(fields, json_values).map(lambda value: json.dumps(value).encode()),
    st.tuples(messages, st.dictionaries(fields, json_values)).map(
        lambda drawn: json.dumps({"model": "primary", "messages": drawn[0], **drawn[1]}).encode()
    ),
)


@settings(max_examples=300, deadline=None)
@given(bodies)
def test_no_body_breaks_the_parser(data: bytes) -> None:
    try:
        parse(data, 8, 4096)
    except ApiError as error:
        assert error.status == 400  # noqa: PT017


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(bodies, min_size=1, max_size=5))
def test_no_body_gets_a_5xx(drawn: list[bytes]) -> None:
    """Each example has an event loop of its own, because hypothesis runs examples outside of the test's."""

    async def send() -> list[httpx.Response]:
        async with serving(FakeBackend(), ProxyConfig()) as server:
            return [await server.http.post("/v1/chat/completions", content=data) for data in drawn]

    for data, response in zip(drawn, asyncio.run(send()), strict=True):
        assert response.status_code < 500, data
        if response.status_code != 200:
            assert response.json()["error"]["message"]
