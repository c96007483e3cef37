"""The rest of the OpenAI surface against the live service: completions, log probabilities, penalties, tokens."""

import math
from typing import Any

import httpx
import openai
import pytest

HELLO: Any = [{"role": "user", "content": "Name three colours."}]


def test_log_probabilities_belong_to_the_text(client: openai.OpenAI):
    asked: Any = {"model": "primary", "messages": HELLO, "temperature": 0, "max_tokens": 12, "top_logprobs": 3}
    choice = client.chat.completions.create(logprobs=True, **asked).choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert b"".join(bytes(token.bytes or []) for token in content).decode() == choice.message.content
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob  # greedy takes the likeliest
        assert token.logprob <= 0
    stream = client.chat.completions.create(logprobs=True, stream=True, **asked)
    streamed = [entry for chunk in stream for c in chunk.choices if c.logprobs for entry in c.logprobs.content or []]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]
    assert [entry.logprob for entry in streamed] == pytest.approx([entry.logprob for entry in content], abs=1e-3)


def test_no_top_log_probabilities_are_an_empty_list(client: openai.OpenAI):
    for more in ({}, {"top_logprobs": 0}):
        asked: Any = {"model": "primary", "messages": HELLO, "max_tokens": 2, "logprobs": True, **more}
        logprobs = client.chat.completions.create(**asked).choices[0].logprobs
        assert logprobs is not None
        assert [token.top_logprobs for token in logprobs.content or []] == [[], []]


def test_a_bias_decides(client: openai.OpenAI, base_url: str):
    tokens = httpx.post(f"{base_url}/tokenize", json={"model": "primary", "prompt": " banana"}).json()["tokens"]
    answer = client.chat.completions.create(
        model="primary", messages=HELLO, max_tokens=3, logit_bias={str(tokens[0]): 100}, temperature=0
    )
    word = httpx.post(f"{base_url}/detokenize", json={"model": "primary", "tokens": tokens[:1]}).json()["prompt"]
    assert answer.choices[0].message.content == 3 * word


def test_penalties_end_a_repetition(client: openai.OpenAI):
    asked: Any = {"model": "primary", "prompt": "one one one one one one one one", "max_tokens": 8, "temperature": 0}

    def tokens(**more: Any) -> list[str]:
        logprobs = client.completions.create(logprobs=0, **asked, **more).choices[0].logprobs
        assert logprobs is not None
        return logprobs.tokens or []

    plain = tokens()
    assert len(set(plain)) < len(plain)
    penalised = tokens(frequency_penalty=2, presence_penalty=2, extra_body={"repetition_penalty": 10.0})
    assert len(set(penalised)) == len(penalised)


def test_completions_continue_texts_and_token_ids(client: openai.OpenAI, base_url: str):
    prompts = ["The capital of France is", "Two plus two is"]
    asked: Any = {"model": "primary", "max_tokens": 5, "temperature": 0}
    both = client.completions.create(prompt=prompts, logprobs=2, **asked)
    assert [choice.index for choice in both.choices] == [0, 1]
    for choice, prompt in zip(both.choices, prompts, strict=True):
        ids = httpx.post(f"{base_url}/tokenize", json={"model": "primary", "prompt": prompt}).json()["tokens"]
        assert client.completions.create(prompt=ids, **asked).choices[0].text == choice.text
        assert client.completions.create(prompt=prompt, echo=True, **asked).choices[0].text == prompt + choice.text
        streamed = client.completions.create(prompt=prompt, stream=True, **asked)
        assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text
        assert choice.logprobs is not None
        assert "".join(choice.logprobs.tokens or []) == choice.text
        assert all(math.isfinite(logprob or 0) for logprob in choice.logprobs.token_logprobs or [])
    assert both.usage is not None
    assert both.usage.completion_tokens == 10


def test_ends_can_be_ignored_or_chosen(client: openai.OpenAI):
    asked: Any = {"model": "primary", "messages": [{"role": "user", "content": "Say: yes"}], "temperature": 0}
    long = client.chat.completions.create(max_tokens=40, extra_body={"ignore_eos": True}, **asked)
    assert long.usage is not None
    assert (long.choices[0].finish_reason, long.usage.completion_tokens) == ("length", 40)
    least = client.chat.completions.create(max_tokens=40, extra_body={"min_tokens": 30}, **asked)
    assert least.usage is not None
    assert least.usage.completion_tokens >= 30


def test_a_request_has_a_deadline_of_its_own(client: openai.OpenAI):
    with pytest.raises(openai.InternalServerError) as late:
        client.chat.completions.create(
            model="primary", messages=HELLO, max_tokens=2000, extra_body={"timeout": 0.3, "ignore_eos": True}
        )
    assert late.value.status_code == 504
    assert late.value.code == "deadline_exceeded"


def test_tokens_that_do_not_exist_are_refused_by_name(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model="primary", prompt=[10**6])
    assert refusal.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="primary", messages=HELLO, logit_bias={"1000000": 5})
    assert refusal.value.param == "logit_bias"


def test_a_conversation_can_be_tokenised_and_its_last_turn_continued(client: openai.OpenAI, base_url: str):
    turn = {"role": "assistant", "content": "Red, green and"}
    asked = {"model": "primary", "messages": [*HELLO, turn], "continue_final_message": True}
    tokenised = httpx.post(f"{base_url}/tokenize", json={**asked, "return_token_strs": True}).json()
    assert "".join(tokenised["token_strs"]).endswith("Red, green and")
    answer = httpx.post(f"{base_url}/v1/chat/completions", json={**asked, "max_tokens": 4, "temperature": 0}).json()
    assert answer["usage"]["prompt_tokens"] == tokenised["count"]


def test_the_model_can_be_retrieved(client: openai.OpenAI):
    model: Any = client.models.retrieve("primary")
    assert (model.id, model.root, model.max_model_len) == ("primary", "SmolLM2-135M-Instruct", 2048)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")
