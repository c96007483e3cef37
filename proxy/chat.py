"""`POST /v1/chat/completions`: the way of a request from body to answer."""

from __future__ import annotations

from contextlib import aclosing

from sanic import Blueprint, HTTPResponse, Request

from proxy.answering import respond
from proxy.backend import GenerateRequest
from proxy.chat_request import parse
from proxy.chat_response import ChatAnswer
from proxy.context import context
from proxy.errors import Naming
from proxy.record import observed
from proxy.request_body import receive_json
from proxy.request_id import request_id

chat = Blueprint("chat")


@chat.post("/v1/chat/completions", stream=True)
async def create_chat_completion(request: Request) -> HTTPResponse | None:
    """Answer a conversation, whole or as a stream."""
    ctx = context(request)
    with observed(request, "chat") as record, ctx.admission.admit(request):
        limits = ctx.config.max_choices, ctx.config.max_messages
        asked = await receive_json(request, ctx.config, lambda body: parse(body, *limits))
        record.ask(asked.model, stream=asked.stream)
        model = await ctx.groups.ready(asked.model)
        answer = ChatAnswer(asked.model, model.fingerprint, asked.include_usage)
        generate = GenerateRequest(asked.prompt, asked.sampling_parameters, asked.stream, request_id(request))
        # Whatever ends this handler, a client that left included, closes the pieces: that frees the engine.
        with Naming({"grammar": asked.grammar_field}):
            async with aclosing(ctx.backend.generate(asked.model, generate)) as pieces:
                return await respond(request, ctx, answer, pieces, stream=asked.stream)
