"""The real OpenAI SDK, sync and async, is content with every answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from proxy.backend import Piece
from proxy.errors import InvalidRequestError
from tests.proxy.conftest import Server
from tests.proxy.fakes import FakeBackend, respond, say, stall

HELLO: Any = [{"role": "user", "content": "Hi"}]


@pytest_asyncio.fixture
async def sdk(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


async def test_a_completion(sdk: openai.AsyncOpenAI) -> None:
    completion = await sdk.chat.completions.create(model="primary", messages=HELLO, n=2)
    assert [choice.message.content for choice in completion.choices] == ["Hello world"] * 2
    assert completion.usage is not None
    assert completion.usage.total_tokens == 11
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 4
    assert completion.system_fingerprint == "fp_fake"


async def test_a_stream_with_usage(sdk: openai.AsyncOpenAI) -> None:
    stream: Any = await sdk.chat.completions.create(
        model="primary", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello world"
    assert chunks[-1].usage.completion_tokens == 2


async def test_the_accumulating_stream_helper(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.chat.completions.stream(model="primary", messages=HELLO) as stream:
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.content == "Hello world"
    assert completion.choices[0].finish_reason == "stop"


async def test_a_refusal_is_the_sdks_own_exception(sdk: openai.AsyncOpenAI, backend: FakeBackend) -> None:
    backend.script = respond(InvalidRequestError("Too long.", param="messages", code="context_length_exceeded"))
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(model="primary", messages=HELLO, stream=True)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.NotFoundError) as missing:
        await sdk.chat.completions.create(model="gpt-4", messages=HELLO)
    assert missing.value.code == "model_not_found"


async def test_an_error_event_in_a_stream_is_raised_by_the_sdk(sdk: openai.AsyncOpenAI, backend: FakeBackend) -> None:
    backend.script = respond([Piece(0, "Hel", 1)], InvalidRequestError("It broke."))
    stream: Any = await sdk.chat.completions.create(model="primary", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="It broke"):
        async for _ in stream:
            pass


async def test_closing_the_sdks_stream_cancels_the_request(sdk: openai.AsyncOpenAI, backend: FakeBackend) -> None:
    backend.script = stall([Piece(0, "Hel", 1)])
    stream: Any = await sdk.chat.completions.create(model="primary", messages=HELLO, stream=True)
    await anext(aiter(stream))
    await stream.close()
    await asyncio.wait_for(backend.closed.wait(), 2)


async def test_every_character_survives_the_stream(sdk: openai.AsyncOpenAI, backend: FakeBackend) -> None:
    """Line separators of every kind must not end an event early."""
    text = 'a\r\nb\n\nc\x85d\u2028e\u2029f\x00g\x1ch"i\\j🙂 data: [DONE]'
    backend.script = say(text, text)
    stream: Any = await sdk.chat.completions.create(model="primary", messages=HELLO, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text * 2


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == ["primary", "second"]
    assert (await sdk.models.retrieve("primary")).owned_by == "slipstream"


async def test_the_sync_sdk(server: Server) -> None:
    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
            whole = sdk.chat.completions.create(model="primary", messages=HELLO)
            parts: Any = sdk.chat.completions.create(model="primary", messages=HELLO, stream=True)
            return whole.choices[0].message.content, "".join(p.choices[0].delta.content or "" for p in parts)

    assert await asyncio.to_thread(ask) == ("Hello world", "Hello world")
