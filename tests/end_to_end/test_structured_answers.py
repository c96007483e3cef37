"""Answers held to a shape, against the live service: a small model at any temperature answers by the schema."""

import asyncio
import json
from enum import Enum
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.json_schemas import SCHEMAS

ASK: Any = {"model": "primary", "messages": [{"role": "user", "content": "Describe a person."}]}
AT_ONCE = 32
MANY_KEYS = {"type": "object", "properties": {f"p{number}": {} for number in range(2000)}}


def schema_format(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


async def test_answers_by_two_hundred_schemas_are_valid(base_url: str):
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=httpx.Timeout(300)) as http:

        async def ask(number: int, schema: Any) -> str:
            body = {**ASK, "temperature": number % 2, "seed": number, "max_tokens": 64}
            body["response_format"] = schema_format(schema, strict=True)
            answer = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()["choices"][0]
            if answer["finish_reason"] == "stop":
                value = json.loads(answer["message"]["content"])
                jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
            return answer["finish_reason"]

        reasons = await asyncio.gather(*(ask(number, schema) for number, schema in enumerate(SCHEMAS)))
    assert set(reasons) <= {"stop", "length"}
    assert reasons.count("stop") >= len(SCHEMAS) * 0.7  # the rest was cut


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=20)
    colour: Colour | None


class Person(BaseModel):
    name: str = Field(max_length=20)
    is_tall: bool
    pets: list[Pet] = Field(max_length=2)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_pydantic_model_comes_back_parsed(client: openai.OpenAI, temperature: float):
    asked: Any = {**ASK, "temperature": temperature, "seed": 5, "max_tokens": 300}
    message = client.chat.completions.parse(**asked, response_format=Person).choices[0].message
    assert isinstance(message.parsed, Person)
    with client.chat.completions.stream(**asked, response_format=Person) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.parsed == message.parsed


def test_the_sdk_says_when_an_answer_was_cut(client: openai.OpenAI):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**ASK, response_format=Person, max_tokens=3)


@pytest.mark.parametrize("seed", range(4))
def test_a_json_object_is_an_object(client: openai.OpenAI, seed: int):
    answer = client.chat.completions.create(
        **ASK, response_format={"type": "json_object"}, seed=seed, temperature=1, max_tokens=400
    ).choices[0]
    assert (answer.message.content or "").startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content or ""), dict)


def test_every_choice_follows_the_schema_in_its_own_way(client: openai.OpenAI):
    schema = {"type": "array", "items": {"enum": list("abcdefgh")}, "minItems": 4, "maxItems": 4}
    shaped: Any = schema_format(schema, strict=True)
    choices = client.chat.completions.create(**ASK, response_format=shaped, n=8, seed=1, temperature=2).choices
    texts = [choice.message.content or "" for choice in choices]
    for text in texts:
        jsonschema.validate(json.loads(text), schema)
    assert len(set(texts)) > 1
    again = client.chat.completions.create(**ASK, response_format=shaped, n=8, seed=1, temperature=2).choices
    assert [choice.message.content for choice in again] == texts


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"guided_choice": ["heads", "tails"]}, ["heads", "tails"]),
        ({"guided_regex": "[ab]c"}, ["ac", "bc"]),
        ({"guided_grammar": 'start: "x" ("y" | "z")'}, ["xy", "xz"]),
        ({"guided_json": {"enum": [1, 2]}}, ["1", "2"]),
        ({"structured_outputs": {"choice": ["heads"]}}, ["heads"]),
    ],
    ids=str,
)
def test_vllms_ways_to_ask_for_a_shape(client: openai.OpenAI, fields: dict[str, Any], allowed: list[str]):
    answer = client.chat.completions.create(**ASK, temperature=1, extra_body=fields).choices[0]
    assert answer.message.content in allowed
    assert answer.finish_reason == "stop"
    prompt = client.completions.create(model="primary", prompt="Flip a coin:", temperature=1, extra_body=fields)
    assert prompt.choices[0].text in allowed


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"response_format": schema_format({"type": "strnig"}, strict=True)}, "response_format", "strnig"),
        ({"response_format": schema_format({"not": {}}, strict=True)}, "response_format", "not"),
        ({"response_format": schema_format({"enum": ["a" * 70_000]})}, "response_format", "65536 bytes"),
        ({"response_format": schema_format(MANY_KEYS)}, "response_format", "2000"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "missing"),
        ({"response_format": {"type": "xml"}}, "response_format", "xml"),
        ({"guided_regex": "("}, "guided_regex", "cannot be used"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar", "cannot be used"),
        ({"guided_choice": []}, "guided_choice", "length"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "together"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_shape_that_cannot_be_had_is_refused(client: openai.OpenAI, fields: dict[str, Any], param: str, says: str):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**ASK, extra_body=fields)
    assert refusal.value.param == param
    assert says in str(refusal.value)
    assert "verbose" not in str(refusal.value)


def test_a_schema_in_the_batch_changes_nobody_elses_answer(client: openai.OpenAI):
    free: Any = {**ASK, "temperature": 0, "max_tokens": 24}
    alone = client.chat.completions.create(**free).choices[0].message.content

    async def mixed() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none") as clients:
            shapes: list[Any] = [{"response_format": {"type": "json_object"}}, {}] * 4
            answers = [clients.chat.completions.create(**free, **shape) for shape in shapes]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*answers)]

    answers = asyncio.run(mixed())
    assert answers[1::2] == [alone] * 4
    assert len(set(answers[::2])) == 1
