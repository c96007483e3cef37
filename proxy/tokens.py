"""`POST /tokenize` and `POST /detokenize`, as vLLM has them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sanic import Blueprint, HTTPResponse, Request, raw

from proxy.backend import Prompt
from proxy.chat_message import ChatMessage
from proxy.chat_request import chat_prompt
from proxy.completion_request import TokenIds
from proxy.context import context
from proxy.errors import InvalidRequestError, Naming
from proxy.json_body import decode
from proxy.request_body import receive_json

tokens = Blueprint("tokens")


class TokenizeBody(msgspec.Struct, kw_only=True):
    """The body of `POST /tokenize`: one of `prompt` and `messages`."""

    model: Annotated[str, Meta(min_length=1, description="the consumer group")]
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class TokenizeAnswer(msgspec.Struct):
    """The tokens that the model would read."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """The body of `POST /detokenize`."""

    model: Annotated[str, Meta(min_length=1, description="the consumer group")]
    tokens: TokenIds


class DetokenizeAnswer(msgspec.Struct):
    """The text of the tokens, without special ones."""

    prompt: str


_tokenize_decoder = msgspec.json.Decoder(TokenizeBody)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeBody)


@tokens.post("/tokenize", stream=True)
async def tokenize(request: Request) -> HTTPResponse:
    """Turn a text or a conversation into tokens."""
    ctx = context(request)
    asked = await receive_json(request, ctx.config, lambda body: decode(body, _tokenize_decoder))
    prompt = _prompt(asked)
    model = await ctx.groups.ready(asked.model)
    with Naming({"text_input": "prompt"}):
        found = await ctx.backend.tokenize(asked.model, prompt)
    texts = found.texts if asked.return_token_strs else None
    return _json(TokenizeAnswer(len(found.ids), model.max_model_len, found.ids, texts))


@tokens.post("/detokenize", stream=True)
async def detokenize(request: Request) -> HTTPResponse:
    """Turn tokens into text."""
    ctx = context(request)
    asked = await receive_json(request, ctx.config, lambda body: decode(body, _detokenize_decoder))
    await ctx.groups.ready(asked.model)
    with Naming({"input_ids": "tokens"}):
        return _json(DetokenizeAnswer(await ctx.backend.detokenize(asked.model, asked.tokens)))


def _prompt(asked: TokenizeBody) -> Prompt:
    if asked.messages is not None:
        return chat_prompt(asked)  # type: ignore[arg-type]
    if asked.prompt is None:
        raise InvalidRequestError("One of 'prompt' and 'messages' is needed.", param="prompt")
    options = {} if asked.add_special_tokens is None else {"add_special_tokens": asked.add_special_tokens}
    return Prompt(text=asked.prompt, options=options)


def _json(value: msgspec.Struct) -> HTTPResponse:
    return raw(msgspec.json.encode(value), content_type="application/json")
