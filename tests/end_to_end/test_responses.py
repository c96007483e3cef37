"""`/v1/responses` against the live service, by OpenAI's SDK: what a chat says, in items of its own."""

import json
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

INSTRUCTIONS = "You are a helpful assistant."
QUESTION = "What is inference server?"
ASKED: Any = {"model": "primary", "instructions": INSTRUCTIONS, "temperature": 0, "max_output_tokens": 24}
PARAMETERS: Any = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": PARAMETERS}


class City(BaseModel):
    name: str = Field(max_length=12)
    size: int = Field(ge=1, le=9)


def test_a_response_says_what_a_chat_says_whole_and_streamed(client: openai.OpenAI):
    messages: Any = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
    chat = client.chat.completions.create(model="primary", messages=messages, temperature=0, max_tokens=24)
    response = client.responses.create(**ASKED, input=QUESTION)
    assert response.output_text == chat.choices[0].message.content
    assert (response.status, response.incomplete_details and response.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert response.usage
    assert chat.usage
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens == 24
    events = list(client.responses.create(**ASKED, input=QUESTION, stream=True))
    said = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(said) > 3
    assert events[-1].type == "response.incomplete"
    assert "".join(said) == events[-1].response.output_text == response.output_text


def test_the_turns_of_a_conversation_go_in_again(client: openai.OpenAI):
    items: Any = [{"role": "user", "content": QUESTION}]
    first = client.responses.create(**ASKED, input=items)
    items += [*(item.model_dump() for item in first.output), {"role": "user", "content": "Say it again."}]
    second = client.responses.create(**ASKED, input=items)
    messages: Any = [
        *({"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}),
        *({"role": "assistant", "content": first.output_text}, {"role": "user", "content": "Say it again."}),
    ]
    chat = client.chat.completions.create(model="primary", messages=messages, temperature=0, max_tokens=24)
    assert second.output_text == chat.choices[0].message.content


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_function_that_must_be_called_is_called_and_its_output_goes_back(client: openai.OpenAI, is_stream: bool):
    items: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = {**ASKED, "tools": [WEATHER], "max_output_tokens": 120}
    forced = {**asked, "tool_choice": "required", "parallel_tool_calls": False}
    if is_stream:
        with client.responses.stream(**forced, input=items) as stream:
            parts = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
            response = stream.get_final_response()
    else:
        response = client.responses.create(**forced, input=items)
    (call,) = response.output
    assert call.type == "function_call"
    assert (response.status, call.status, call.name) == ("completed", "completed", "get_weather")
    jsonschema.validate(json.loads(call.arguments), PARAMETERS)
    if is_stream:
        assert "".join(parts) == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "It is sunny and 25 degrees warm."}
    items += [call.model_dump(include={"type", "call_id", "name", "arguments"}), output]
    answer = client.responses.create(**asked, tool_choice="none", input=items)
    assert "25 degrees" in answer.output_text


def test_a_shape_is_kept_and_parsed(client: openai.OpenAI):
    response = client.responses.parse(
        model="primary", input="Name a city.", text_format=City, temperature=1, extra_body={"seed": 3}
    )
    assert isinstance(response.output_parsed, City)


def test_log_probabilities_come_on_request(client: openai.OpenAI):
    response = client.responses.create(**ASKED, input=QUESTION, top_logprobs=2)
    (message,) = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs
    assert "".join(entry.token for entry in part.logprobs) == part.text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)


def test_refusals_are_the_sdks_own_errors_with_the_fields_of_this_route(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="nobody", input="Hi")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(model="primary", input="word " * 5000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input")
    with pytest.raises(openai.BadRequestError) as kept:
        client.responses.create(model="primary", input="Hi", previous_response_id="resp_1")
    assert kept.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as shape:
        client.responses.create(
            model="primary",
            input="Hi",
            text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "robot"}, "strict": True}},
        )
    assert shape.value.param == "text.format"
