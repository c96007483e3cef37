"""`POST /v1/responses`: OpenAI's newer API, on the same way as a chat. Nothing is kept between requests."""

from __future__ import annotations

from contextlib import aclosing

from sanic import Blueprint, HTTPResponse, Request

from proxy.answering import respond
from proxy.backend import GenerateRequest
from proxy.context import context
from proxy.errors import Naming
from proxy.record import observed
from proxy.request_body import receive_json
from proxy.request_id import request_id
from proxy.responses_answer import ResponsesAnswer
from proxy.responses_event import WIRE
from proxy.responses_request import parse

responses = Blueprint("responses")

# The engine's words for what has other names here.
_FIELDS = {"messages": "input", "max_tokens": "max_output_tokens"}


@responses.post("/v1/responses", stream=True)
async def create_response(request: Request) -> HTTPResponse | None:
    """Answer a conversation, whole or as a stream."""
    ctx = context(request)
    with observed(request, "chat") as record, ctx.admission.admit(request):
        asked = await receive_json(request, ctx.config, lambda body: parse(body, ctx.config.max_messages))
        body = asked.body
        record.ask(body.model, stream=body.is_stream)
        await ctx.groups.ready(body.model)
        generate = GenerateRequest(asked.prompt, asked.sampling_parameters, body.is_stream, request_id(request))
        with Naming({**_FIELDS, "grammar": asked.grammar_field}):
            async with aclosing(ctx.backend.generate(body.model, generate)) as pieces:
                return await respond(request, ctx, ResponsesAnswer(body), pieces, stream=body.is_stream, wire=WIRE)
