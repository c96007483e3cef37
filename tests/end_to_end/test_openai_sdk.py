"""The OpenAI SDK against the live service: whole, streamed, async, raw, and every refusal as its own class."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

QUESTION: Any = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is inference server?"},
]


def said(stream: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Texts and finish reasons of a stream, by choice."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for chunk in stream:
        for choice in chunk.choices:
            assert choice.index not in reasons
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons


def test_a_whole_answer_makes_sense(client: openai.OpenAI):
    answer = client.chat.completions.create(model="primary", messages=QUESTION, temperature=0, max_tokens=40)
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "primary"
    assert answer.system_fingerprint
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert "nference" in choice.message.content
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (25, 40, 65)


def test_an_answer_that_ends_by_itself_says_stop(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model="primary", messages=[{"role": "user", "content": "Say hello."}], temperature=0
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "<|" not in str(answer.choices[0].message.content)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 1, "seed": 7},
        {"temperature": 1, "seed": 7, "top_p": 0.8, "n": 3},
        {"temperature": 2, "seed": 11, "n": 4},
        {"temperature": 0, "stop": ["server", "."]},
        {"temperature": 0, "max_completion_tokens": 9, "max_tokens": 50},
        {"temperature": 1, "seed": 3, "extra_body": {"top_k": 3}},
    ],
    ids=str,
)
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI, settings: dict[str, Any]):
    ask: dict[str, Any] = {"model": "primary", "messages": QUESTION, "max_tokens": 48, **settings}
    whole = client.chat.completions.create(**ask)
    texts, reasons = said(client.chat.completions.create(**ask, stream=True))
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert len(texts) == settings.get("n", 1)
    if "stop" in settings:
        assert not any(string in texts[0] for string in settings["stop"])
        assert reasons[0] == "stop"


def test_characters_of_several_tokens_are_never_cut_in_a_stream(client: openai.OpenAI):
    ask: dict[str, Any] = {
        "model": "primary",
        "messages": [{"role": "user", "content": "Repeat exactly: 日本語 😀🎉 Ελληνικά"}],
        "temperature": 1.5,
        "n": 8,
    }
    for max_tokens in (7, 20):
        whole = client.chat.completions.create(**ask, seed=max_tokens, max_tokens=max_tokens)
        stream = client.chat.completions.create(**ask, seed=max_tokens, max_tokens=max_tokens, stream=True)
        texts, _ = said(stream)
        assert texts == {choice.index: choice.message.content for choice in whole.choices}


def test_usage_comes_in_a_stream_on_request_alone(client: openai.OpenAI):
    ask: dict[str, Any] = {"model": "primary", "messages": QUESTION, "max_tokens": 5, "stream": True}
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**ask))
    *_, last = client.chat.completions.create(**ask, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage
    assert last.usage.completion_tokens == 5


def test_a_conversation_goes_on_with_all_its_turns_in_the_prompt(client: openai.OpenAI):
    messages: Any = [{"role": "user", "content": "Name a colour."}]
    prompt_sizes = []
    for turn in ("And another one.", "Thank you."):
        answer = client.chat.completions.create(model="primary", messages=messages, temperature=0, max_tokens=30)
        assert answer.usage
        prompt_sizes.append((answer.usage.prompt_tokens, answer.usage.completion_tokens))
        messages += [answer.choices[0].message.model_dump(), {"role": "user", "content": turn}]
    (first_prompt, first_answer), (second_prompt, _) = prompt_sizes
    assert second_prompt >= first_prompt + first_answer


def test_a_prompt_that_was_seen_before_is_reused_and_says_the_same(client: openai.OpenAI):
    ask: Any = {
        "model": "primary",
        "messages": [{"role": "user", "content": "Summarise. " + "The tide came in and went out again. " * 20}],
        "temperature": 0,
        "max_tokens": 12,
    }
    first, again = (client.chat.completions.create(**ask) for _ in range(2))
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.usage
    assert again.usage
    assert again.usage.prompt_tokens_details
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached
    assert cached >= again.usage.prompt_tokens - 33


async def test_a_crowd_gets_the_same_answers_as_one_alone(base_url: str):
    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none") as client:

        async def ask(number: int) -> str:
            stream = await client.chat.completions.create(
                model="primary", messages=QUESTION, seed=number, temperature=1, max_tokens=24, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        alone = [await ask(number) for number in range(3)]
        crowd = await asyncio.gather(*(ask(number) for number in range(20)))
    assert crowd[:3] == alone
    assert len(set(crowd)) > 10


def test_raw_responses_carry_the_request_id(client: openai.OpenAI):
    raw = client.chat.completions.with_raw_response.create(
        model="primary", messages=QUESTION, max_tokens=2, extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.parse().choices[0].finish_reason == "length"


def test_a_streams_bytes_are_server_sent_events_that_end_with_done(base_url: str):
    body = {"model": "primary", "messages": QUESTION, "max_tokens": 6, "stream": True}
    with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_over_long_prompt_is_refused_with_both_numbers_before_any_stream(client: openai.OpenAI, stream: bool):
    long: Any = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(openai.BadRequestError, match=r"2048 tokens.* 50\d\d tokens") as refusal:
        client.chat.completions.create(model="primary", messages=long, stream=stream)
    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.param == "messages"


def test_an_unknown_group_is_refused_with_the_groups_that_exist(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="'primary'") as refusal:
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)
    assert refusal.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("param", "value"),
    [("temperature", 2.5), ("top_p", 0), ("max_tokens", 0), ("n", 99), ("stop", ["a"] * 5), ("seed", "x")],
)
def test_values_out_of_range_are_refused_by_name(client: openai.OpenAI, param: str, value: Any):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**{"model": "primary", "messages": QUESTION, param: value})
    assert refusal.value.param == param


def test_parameters_that_are_not_supported_are_disregarded(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model="primary",
        messages=QUESTION,
        max_tokens=2,
        functions=[{"name": "f", "parameters": {}}],
        function_call="auto",
        user="somebody",
    )
    assert answer.choices[0].message.content


def test_the_groups_are_listed(client: openai.OpenAI):
    (model,) = client.models.list()
    assert model.id == "primary"
    assert model.model_dump()["max_model_len"] == 2048
    assert model.model_dump()["root"] == "SmolLM2-135M-Instruct"
    assert client.models.retrieve("primary").id == "primary"
