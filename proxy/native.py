"""`POST /generate` and `POST /generate_stream`: Takeoff's own API."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from sanic import Blueprint, HTTPResponse, Request

from proxy import native_events
from proxy.answering import respond
from proxy.backend import GenerateRequest, Prompt
from proxy.context import Context, context
from proxy.errors import Naming
from proxy.fan_out import generate_all
from proxy.native_request import NativeRequest, parse
from proxy.native_response import NativeAnswer
from proxy.record import observed
from proxy.request_body import receive_json
from proxy.request_id import request_id

native = Blueprint("native")

# The engine's and the OpenAI API's words for Takeoff's fields.
_FIELDS = {
    "model": "consumer_group",
    "text_input": "text",
    "messages": "text",
    "input_ids": "text",
    "prompt": "text",
    "temperature": "sampling_temperature",
    "top_p": "sampling_topp",
    "top_k": "sampling_topk",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
}


@native.post("/generate", stream=True)
async def generate(request: Request) -> HTTPResponse | None:
    """Continue one or several texts, and answer when all is written."""
    return await _answer(request, stream=False)


@native.post("/generate_stream", stream=True)
async def generate_stream(request: Request) -> HTTPResponse | None:
    """Continue one or several texts, and send them as they are written."""
    return await _answer(request, stream=True)


async def _answer(request: Request, *, stream: bool) -> HTTPResponse | None:
    ctx = context(request)
    with observed(request, "text_completion") as record, ctx.admission.admit(request), Naming(_FIELDS):
        asked = await receive_json(request, ctx.config, lambda body: parse(body, ctx.config.max_prompts))
        record.ask(asked.group, stream=stream)
        await ctx.groups.ready(asked.group)
        prompts = await asyncio.gather(*(_prompt(ctx, asked, text) for text in asked.texts))
        requests = [
            GenerateRequest(prompt, asked.sampling_parameters, stream, request_id(request)) for prompt in prompts
        ]
        answer = NativeAnswer(is_list=asked.is_list, with_metadata=asked.with_metadata)
        with Naming({"grammar": asked.grammar_field}):
            async with aclosing(generate_all(ctx.backend, asked.group, requests, 1)) as pieces:
                return await respond(request, ctx, answer, pieces, stream=stream, wire=native_events.WIRE)


async def _prompt(ctx: Context, asked: NativeRequest, text: str) -> Prompt:
    if asked.max_prompt_tokens is not None:
        text = await _cut(ctx, asked.group, text, asked.max_prompt_tokens)
    if asked.is_chat:
        return Prompt(messages=[{"role": "user", "content": text}])
    return Prompt(text=text)


async def _cut(ctx: Context, group: str, text: str, max_tokens: int) -> str:
    """The end of a text that is too long; a character that the cut has split is left out."""
    found = await ctx.backend.tokenize(group, Prompt(text=text, options={"add_special_tokens": False}))
    if len(found.ids) <= max_tokens:
        return text
    return (await ctx.backend.detokenize(group, found.ids[-max_tokens:])).lstrip("\N{REPLACEMENT CHARACTER}")
