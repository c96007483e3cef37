"""Schemas, tools and thoughts: what reaches the engine, and how its pieces come out, whole and as a stream."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.backend import Piece, ToolCallPart, Usage
from proxy.errors import InvalidRequestError
from tests.proxy.conftest import Server
from tests.proxy.fakes import FakeBackend, respond
from tests.proxy.test_proxy_chat import events

USAGE = Usage(5, 9)
FUNCTION = {"name": "get_weather", "description": "Tells it.", "parameters": {"type": "object"}, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def schema_format(**json_schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": json_schema}


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {"response_format": schema_format(name="n", schema={"a": 1.5}, strict=True)},
            {"json_schema": {"a": 1.5}, "is_lenient": False},
        ),
        (
            {"response_format": schema_format(name="n", schema={})},
            {"json_schema": {}, "is_lenient": True},
        ),
        ({"guided_json": {"a": 1}}, {"json_schema": {"a": 1}}),
        ({"guided_json": '{"a": 1}'}, {"json_schema": {"a": 1}}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a"]}, {"choice": ["a"]}),
        ({"guided_grammar": "start: X"}, {"lark": "start: X"}),
        ({"structured_outputs": {"choice": ["a"]}}, {"choice": ["a"]}),
    ],
)  # fmt: skip
async def test_what_an_answer_must_look_like_reaches_the_engine(
    server: Server, backend: FakeBackend, fields: dict[str, Any], grammar: Any
) -> None:
    assert (await server.chat(**fields)).status_code == 200
    assert backend.last.sampling_parameters.get("grammar") == grammar


@pytest.mark.parametrize(
    ("fields", "tools", "parameters"),
    [
        ({"tools": [TOOL]}, [TOOL], {}),
        (
            {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
            [TOOL],
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        ({"tools": [TOOL], "tool_choice": "required"}, [TOOL], {"tool_choice": "required"}),
        ({"tools": [TOOL], "tool_choice": NAMED}, [TOOL], {"tool_choice": {"name": "get_weather"}}),
        ({"tools": [TOOL], "tool_choice": "none"}, None, {"tool_choice": "none"}),
        ({"tools": []}, None, {}),
    ],
)  # fmt: skip
async def test_tools_reach_the_engine_as_they_are(
    server: Server, backend: FakeBackend, fields: dict[str, Any], tools: Any, parameters: dict[str, Any]
) -> None:
    assert (await server.chat(**fields)).status_code == 200
    assert backend.last.prompt.options.get("tools") == tools
    assert backend.last.sampling_parameters == parameters


CALLS = [
    [Piece(0, "", 4, reasoning="Hm.")],
    [Piece(0, "Let me see.", 3, tool_calls=[ToolCallPart(0, "get_weather", '{"ci')])],
    [Piece(0, "", 3, tool_calls=[ToolCallPart(0, None, 'ty": 1}'), ToolCallPart(1, "clock", "{}")])],
    [Piece(0, "", 1, "stop", USAGE)],
]


async def test_calls_come_whole(server: Server, backend: FakeBackend) -> None:
    backend.script = respond(*CALLS)
    (choice,) = (await server.chat(tools=[TOOL])).json()["choices"]
    first, second = choice["message"].pop("tool_calls")
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "Let me see.",
        "refusal": None,
        "reasoning_content": "Hm.",
    }
    assert first["type"] == "function"
    assert first["function"] == {"name": "get_weather", "arguments": '{"city": 1}'}
    assert second["function"] == {"name": "clock", "arguments": "{}"}
    assert first["id"] != second["id"]
    assert len(first["id"]) == 9


async def test_calls_come_as_a_stream(server: Server, backend: FakeBackend) -> None:
    backend.script = respond(*CALLS)
    chunks = events((await server.chat(tools=[TOOL], stream=True)).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    ids = [call.pop("id") for delta in deltas for call in delta.get("tool_calls", []) if "id" in call]
    assert len(set(ids)) == 2
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm."},
        {
            "content": "Let me see.",
            "tool_calls": [{"index": 0, "type": "function", "function": {"name": "get_weather", "arguments": '{"ci'}}],
        },
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": 'ty": 1}'}},
                {"index": 1, "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ]
        },
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_the_limit_cuts_off_says_length(server: Server, backend: FakeBackend, stream: bool) -> None:
    backend.script = respond([Piece(0, "", 2, "length", USAGE, tool_calls=[ToolCallPart(0, "clock", '{"zo')])])
    answer = await server.chat(tools=[TOOL], stream=stream)
    last = events(answer.text)[-1] if stream else answer.json()
    assert last["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_a_stop_string_cuts_off_says_stop(server: Server, backend: FakeBackend, stream: bool) -> None:
    """It said `tool_calls`, and clients went on to read arguments that were not whole."""
    parts = [ToolCallPart(0, "clock", "{}"), ToolCallPart(1, "clock", '{"zo'), ToolCallPart(1, None, 'ne": ')]
    backend.script = respond(
        [Piece(0, "", 2, tool_calls=parts[:2])], [Piece(0, "", 2, "stop", USAGE, tool_calls=parts[2:])]
    )
    answer = await server.chat(tools=[TOOL], stream=stream)
    last = events(answer.text)[-1] if stream else answer.json()
    assert last["choices"][0]["finish_reason"] == "stop"


async def test_content_is_null_where_there_is_nothing_but_calls(server: Server, backend: FakeBackend) -> None:
    backend.script = respond([Piece(0, "", 2, "stop", USAGE, tool_calls=[ToolCallPart(0, "clock", "{}")])])
    assert (await server.chat(tools=[TOOL])).json()["choices"][0]["message"]["content"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"guided_regex": "("}, "guided_regex"), ({"response_format": {"type": "json_object"}}, "response_format")],
)
async def test_what_the_engine_finds_wrong_with_a_grammar_is_said_of_the_clients_field(
    server: Server, backend: FakeBackend, fields: dict[str, Any], param: str
) -> None:
    for stream in (True, False):
        backend.script = respond(InvalidRequestError("The grammar cannot be used: so it is.", param="grammar"))
        answer = await server.chat(**fields, stream=stream)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
