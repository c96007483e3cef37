"""OpenAI's newer API, `/v1/responses`: what is asked, what comes back whole and as a stream, what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from proxy.backend import Piece, TokenLogprob, ToolCallPart, Usage
from proxy.errors import InvalidRequestError, OverloadedError
from tests.proxy.conftest import Server
from tests.proxy.fakes import FakeBackend, respond, say
from tests.proxy.test_proxy_openapi import validator

USAGE = Usage(5, 9, 4, 3)
TOOL = {"type": "function", "name": "get_weather", "description": "Tells it.", "parameters": {"type": "object"}}
HI = {"role": "user", "content": "Hi"}


async def ask(server: Server, **fields: Any) -> Any:
    return await server.http.post("/v1/responses", json={"model": "primary", "input": "Hi", **fields})


def events(text: str) -> list[Any]:
    """The events of a finished stream, each under the name that its data has; they are numbered and as described."""
    found = []
    for block in filter(None, text.split("\n\n")):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def names(text: str) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events(text)]


async def test_an_answer_is_a_response_with_a_message(server: Server, backend: FakeBackend) -> None:
    response = await ask(server, instructions="Be kind.", max_output_tokens=9, temperature=0.5, metadata={"a": "b"})
    body = response.json()
    assert response.status_code == 200, body
    validator("ResponseObject").validate(body)
    assert body.pop("id").startswith("resp_")
    assert 0 <= body.pop("completed_at") - body.pop("created_at") <= 5
    (item,) = body.pop("output")
    assert item.pop("id").startswith("msg_")
    said = {"type": "output_text", "text": "Hello world", "annotations": [], "logprobs": []}
    assert item == {"type": "message", "status": "completed", "role": "assistant", "content": [said]}
    assert body == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "primary",
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 9,
        },
        "instructions": "Be kind.",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": None,
        "truncation": "disabled",
        "background": False,
        "store": False,
        "previous_response_id": None,
    }
    assert backend.last.stream is False
    assert backend.last.prompt.messages == [{"role": "system", "content": "Be kind."}, HI]
    assert backend.last.sampling_parameters == {"max_tokens": 9, "temperature": 0.5}


async def test_a_streamed_response_opens_and_closes_each_item(server: Server, backend: FakeBackend) -> None:
    response = await ask(server, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = events(response.text)
    for event in found:
        validator(type_of(event)).validate(event)
    assert names(response.text) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert found[0]["response"]["status"] == found[1]["response"]["status"] == "in_progress"
    assert found[0]["response"]["output"] == []
    assert "".join(event["delta"] for event in found if event["type"].endswith(".delta")) == "Hello world"
    assert found[-1]["response"]["output"] == [found[-2]["item"]]
    assert found[2]["item"] == {**found[-2]["item"], "status": "in_progress", "content": []}
    assert found[0]["response"]["id"] == found[-1]["response"]["id"]


def type_of(event: dict[str, Any]) -> str:
    """The name that an event's type has in the description."""
    from proxy import responses_event

    return next(
        kind.__name__ for kind in responses_event.ResponsesEvent.__args__ if kind.__struct_config__.tag == event["type"]
    )


CALLS = [
    [Piece(0, "", 4, reasoning="Hm"), Piece(0, "", 1, reasoning=".")],
    [Piece(0, "Let me see.", 3, tool_calls=[ToolCallPart(0, "get_weather", '{"ci')])],
    [Piece(0, "", 3, tool_calls=[ToolCallPart(0, None, 'ty": 1}'), ToolCallPart(1, "clock", "{}")])],
    [Piece(0, "", 1, "stop", USAGE)],
]


async def test_thoughts_words_and_calls_are_items_of_their_own(server: Server, backend: FakeBackend) -> None:
    backend.script = respond(*CALLS)
    whole = (await ask(server, tools=[TOOL])).json()
    streamed = await ask(server, tools=[TOOL], stream=True)
    for event in events(streamed.text):
        validator(type_of(event)).validate(event)
    last = events(streamed.text)[-1]["response"]
    for response in whole, last:
        thoughts, words, first, second = response["output"]
        assert (thoughts["type"], thoughts["summary"]) == ("reasoning", [])
        assert thoughts["content"] == [{"type": "reasoning_text", "text": "Hm."}]
        assert words["content"][0]["text"] == "Let me see."
        assert (first["type"], first["name"], first["arguments"]) == ("function_call", "get_weather", '{"city": 1}')
        assert (second["name"], second["arguments"], second["status"]) == ("clock", "{}", "completed")
        assert first["call_id"] != second["call_id"]
        assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
        assert response["tools"][0]["name"] == "get_weather"
    assert names(streamed.text) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    places = [event["output_index"] for event in events(streamed.text) if "output_index" in event]
    assert places == sorted(places)
    assert set(places) == {0, 1, 2, 3}


async def test_an_answer_that_the_limit_cuts_off_is_incomplete(server: Server, backend: FakeBackend) -> None:
    backend.script = say("Hello", finish_reason="length")
    whole = (await ask(server)).json()
    last = events((await ask(server, stream=True)).text)[-1]
    assert last["type"] == "response.incomplete"
    for response in whole, last["response"]:
        assert response["status"] == response["output"][0]["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_call_that_a_stop_string_cuts_off_is_incomplete(server: Server, backend: FakeBackend) -> None:
    backend.script = respond([Piece(0, "", 2, "stop", USAGE, tool_calls=[ToolCallPart(0, "clock", '{"a')])])
    assert (await ask(server, tools=[TOOL])).json()["output"][0]["status"] == "incomplete"


async def test_an_answer_of_nothing_is_an_empty_message(server: Server, backend: FakeBackend) -> None:
    backend.script = respond([Piece(0, "", 1, "stop", USAGE)])
    (item,) = (await ask(server)).json()["output"]
    assert item["content"][0]["text"] == ""
    assert names((await ask(server, stream=True)).text)[-2:] == ["output_item.done", "completed"]


async def test_log_probabilities_stand_with_the_text_alone(server: Server, backend: FakeBackend) -> None:
    first, second, third = (TokenLogprob(token, -1.0, [1], []) for token in "abc")
    backend.script = respond(
        [Piece(0, "", 1, logprobs=[first], reasoning="a")],
        [Piece(0, "", 1, logprobs=[second])],  # a part of a character
        [Piece(0, "bc", 1, logprobs=[third])],
        [Piece(0, "", 1, "stop", USAGE)],
    )
    response = await ask(server, top_logprobs=2, stream=True)
    assert backend.last.sampling_parameters == {"logprobs": 2}
    found = events(response.text)
    (delta,) = [event for event in found if event["type"] == "response.output_text.delta"]
    assert [entry["token"] for entry in delta["logprobs"]] == ["b", "c"]
    assert [entry["token"] for entry in found[-1]["response"]["output"][1]["content"][0]["logprobs"]] == ["b", "c"]
    await ask(server, include=["message.output_text.logprobs"])
    assert backend.last.sampling_parameters == {"logprobs": 0}


async def test_a_failure_after_the_first_event_is_told_and_ends_the_stream(
    server: Server, backend: FakeBackend
) -> None:
    backend.script = respond([Piece(0, "Hel", 1)], InvalidRequestError("It broke.", code="broken", param="input"))
    found = events((await ask(server, stream=True)).text)
    assert found[-2] == {
        "type": "error",
        "sequence_number": 5,
        "code": "broken",
        "message": "It broke.",
        "param": "input",
    }
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["status"] == "failed"
    assert found[-1]["response"]["error"] == {"code": "broken", "message": "It broke."}
    for event in found:
        validator(type_of(event)).validate(event)


async def test_a_refusal_before_the_first_event_is_a_plain_error(server: Server, backend: FakeBackend) -> None:
    backend.script = respond(OverloadedError("Full."))
    response = await ask(server, stream=True)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert (await ask(server, model="nobody")).json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ([HI], [HI]),
        ([{"type": "message", **HI}], [HI]),
        (
            [{"role": "developer", "content": [{"type": "input_text", "text": "A"}, {"type": "text", "text": "B"}]}],
            [{"role": "system", "content": "AB"}],
        ),
        (
            [
                HI,
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
                {
                    "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                    "content": [
                        {"type": "output_text", "text": "Yes", "annotations": [], "logprobs": []},
                        {"type": "refusal", "refusal": ", no"},
                    ],
                },
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"},
                {"type": "function_call", "call_id": "c2", "name": "g", "arguments": '{"a": 1}'},
                {"type": "function_call_output", "call_id": "c1", "output": "sun"},
                {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
            ],
            [
                HI,
                {
                    "role": "assistant", "content": "Yes, no",
                    "tool_calls": [
                        {"function": {"name": "f", "arguments": "{}"}, "id": "c1", "type": "function"},
                        {"function": {"name": "g", "arguments": '{"a": 1}'}, "id": "c2", "type": "function"},
                    ],
                },
                {"role": "tool", "content": "sun", "tool_call_id": "c1"},
                {"role": "tool", "content": "rain", "tool_call_id": "c2"},
            ],
        ),
    ],
)  # fmt: skip
async def test_items_become_the_turns_of_a_conversation(
    server: Server, backend: FakeBackend, given: Any, messages: Any
) -> None:
    response = await ask(server, input=given)
    assert response.status_code == 200, response.text
    assert backend.last.prompt.messages == messages


async def test_shapes_tools_and_extensions_reach_the_engine(server: Server, backend: FakeBackend) -> None:
    schema = {"type": "object"}
    await ask(
        server,
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "low"},
        top_k=5,
        seed=1,
        chat_template_kwargs={"a": 1},
        store=True,
        reasoning={"effort": "low"},
        truncation="auto",
    )
    assert backend.last.sampling_parameters == {
        "top_k": 5,
        "seed": 1,
        "grammar": {"json_schema": schema, "is_lenient": False},
    }
    assert backend.last.prompt.options == {"chat_template_kwargs": {"a": 1}}
    await ask(server, text={"format": {"type": "json_object"}})
    assert backend.last.sampling_parameters == {"grammar": {"json_object": True}}
    await ask(server, tools=[TOOL], tool_choice={"type": "function", "name": "get_weather"}, parallel_tool_calls=False)
    assert backend.last.sampling_parameters == {"tool_choice": {"name": "get_weather"}}
    function = {key: value for key, value in TOOL.items() if key != "type"}
    assert backend.last.prompt.options == {"tools": [{"type": "function", "function": function}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"role": "user"}]}, "input"),
        ({"input": [{"content": "Hi"}]}, "input"),
        ({"input": [{"role": "robot", "content": "Hi"}]}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "refusal"}]}]}, "input"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input"),
        ({"input": [HI] * 4097}, "input"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text"),
        ({"text": {"format": {"type": "json_object"}}, "guided_regex": "a"}, "guided_regex"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "clock"}}, "tool_choice"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_by_the_fields_name(
    server: Server, backend: FakeBackend, fields: dict[str, Any], param: str
) -> None:
    response = await ask(server, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert not backend.requests


@pytest.mark.parametrize(
    ("theirs", "ours"), [("messages", "input"), ("max_tokens", "max_output_tokens"), ("grammar", "text.format")]
)
async def test_the_engines_refusals_name_the_fields_of_this_route(
    server: Server, backend: FakeBackend, theirs: str, ours: str
) -> None:
    backend.script = respond(InvalidRequestError(f"{theirs} is wrong.", param=theirs))
    error = (await ask(server)).json()["error"]
    assert (error["param"], error["message"]) == (ours, f"'{ours}' is wrong.")


@pytest_asyncio.fixture
async def sdk(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


async def test_openais_sdk_reads_responses(sdk: openai.AsyncOpenAI, backend: FakeBackend) -> None:
    response = await sdk.responses.create(model="primary", input="Hi")
    assert response.output_text == "Hello world"
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 4
    async with sdk.responses.stream(model="primary", input="Hi") as stream:
        said = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        assert "".join(said) == (await stream.get_final_response()).output_text == "Hello world"
    backend.script = respond(*CALLS)
    tools: Any = [TOOL]
    async with sdk.responses.stream(model="primary", input="Hi", tools=tools) as stream:
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    # What came back goes in again.
    items: Any = [HI, *(item.model_dump(exclude_none=True) for item in final.output)]
    await sdk.responses.create(model="primary", input=items)
    assert backend.last.prompt.messages is not None
    assert [len(turn.get("tool_calls", [])) for turn in backend.last.prompt.messages] == [0, 2]


async def test_openais_sdk_parses_responses(sdk: openai.AsyncOpenAI, backend: FakeBackend) -> None:
    class Place(BaseModel):
        city: str

    backend.script = say('{"city": "Paris"}')
    response = await sdk.responses.parse(model="primary", input="Hi", text_format=Place)
    assert response.output_parsed == Place(city="Paris")
    assert backend.last.sampling_parameters["grammar"]["is_lenient"] is False
