"""Calls of tools against the live service: forced ones are valid even from a model that was never taught any."""

import json
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "unit", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "description": "The time."}}
TOOLS = [WEATHER, CLOCK]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
ASK: Any = {
    "model": "primary",
    "messages": [{"role": "user", "content": "What is the weather in Paris, and what time is it?"}],
    "max_tokens": 120,
}


class Weather(BaseModel):
    city: str = Field(max_length=12)
    unit: Literal["celsius", "fahrenheit"]


def check(call: Any) -> None:
    """The call is one of a tool that there is, with arguments by its schema."""
    tool = next(tool for tool in TOOLS if tool["function"]["name"] == call.function.name)
    jsonschema.validate(json.loads(call.function.arguments), tool["function"].get("parameters", {"maxProperties": 0}))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_forced_call_is_valid_whole_and_streamed(client: openai.OpenAI, choice: Any, temperature: float):
    asked: Any = {**ASK, "tools": TOOLS, "tool_choice": choice, "temperature": temperature, "seed": 7}
    whole = client.chat.completions.create(**asked).choices[0]
    calls = whole.message.tool_calls or []
    assert whole.finish_reason in ("tool_calls", "length")
    assert calls
    for call in calls[: None if whole.finish_reason == "tool_calls" else -1]:
        check(call)
    if choice == NAMED:
        assert [call.function.name for call in calls if call.type == "function"] == ["get_weather"]
    streamed: list[list[str]] = []
    words = ""
    for chunk in client.chat.completions.create(**asked, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function
            if delta.function.name:
                streamed.append([delta.function.name, ""])
            streamed[delta.index][1] += delta.function.arguments or ""
        words += chunk.choices[0].delta.content or ""
    assert chunk.choices[0].finish_reason == whole.finish_reason
    assert words == (whole.message.content or "")
    assert streamed == [[call.function.name, call.function.arguments] for call in calls if call.type == "function"]


def test_the_sdk_puts_a_streamed_call_together(client: openai.OpenAI):
    asked: Any = {**ASK, "tools": [openai.pydantic_function_tool(Weather)], "tool_choice": "required"}
    with client.chat.completions.stream(**asked, parallel_tool_calls=False, seed=1) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    (call,) = final.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)


def test_a_streamed_call_has_its_id_and_name_first_and_once(client: openai.OpenAI):
    stream = client.chat.completions.create(**ASK, tools=[WEATHER], tool_choice=NAMED, temperature=0, stream=True)
    deltas = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or []]
    first, *rest = deltas
    assert first.id
    assert first.function
    assert (first.type, first.function.name) == ("function", "get_weather")
    assert rest, "the arguments come as they are made"
    assert all(delta.id is None and delta.function and delta.function.name is None for delta in rest)
    jsonschema.validate(
        json.loads("".join(delta.function.arguments or "" for delta in deltas if delta.function)),
        WEATHER["function"]["parameters"],
    )


def test_one_call_at_a_time_if_that_is_asked_for(client: openai.OpenAI):
    for seed in range(3):
        answer = client.chat.completions.create(
            **ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1, seed=seed
        )
        assert len(answer.choices[0].message.tool_calls or []) == 1


def test_a_call_that_is_cut_says_length(client: openai.OpenAI):
    answer = client.chat.completions.create(**{**ASK, "max_tokens": 12}, tools=[WEATHER], tool_choice=NAMED)
    assert answer.choices[0].finish_reason == "length"


def test_tools_may_be_left_alone(client: openai.OpenAI):
    plain = client.chat.completions.create(**ASK, temperature=0).choices[0].message
    none = client.chat.completions.create(**ASK, tools=TOOLS, tool_choice="none", temperature=0).choices[0].message
    assert (none.content, none.tool_calls) == (plain.content, None)
    seed = {"functions": [WEATHER["function"]], "function_call": "auto"}  # the old fields, which change nothing
    old = client.chat.completions.create(**ASK, temperature=0, extra_body=seed).choices[0].message
    assert old.content == plain.content


def test_what_a_tool_says_goes_back_to_the_model(client: openai.OpenAI):
    asked = client.chat.completions.create(**ASK, tools=[WEATHER], tool_choice=NAMED, temperature=0).choices[0].message
    assert asked.tool_calls
    turns = [
        *ASK["messages"],
        asked.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "Cloudy, 12 degrees."},
    ]
    answer = client.chat.completions.create(**{**ASK, "messages": turns}, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content
    short = client.chat.completions.create(**{**ASK, "messages": turns[:1]}, tools=[WEATHER], tool_choice="none")
    assert answer.usage
    assert short.usage
    assert answer.usage.prompt_tokens > short.usage.prompt_tokens + 20


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools"),
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"tools": [WEATHER], "guided_regex": "a"}, "guided_regex"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "strnig"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_tools_that_cannot_be_called_are_refused(client: openai.OpenAI, fields: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**ASK, extra_body=fields)
    assert refusal.value.param == param
