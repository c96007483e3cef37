"""`POST /v1/completions`: raw prompts, continued."""

from __future__ import annotations

from contextlib import aclosing

from sanic import Blueprint, HTTPResponse, Request

from proxy.answering import respond
from proxy.backend import GenerateRequest
from proxy.completion_request import CompletionRequest, parse
from proxy.completion_response import CompletionAnswer
from proxy.context import Context, context
from proxy.errors import Naming
from proxy.fan_out import generate_all
from proxy.record import observed
from proxy.request_body import receive_json
from proxy.request_id import request_id

completions = Blueprint("completions")

# The engine's words for what is a prompt here.
_FIELDS = dict.fromkeys(("text_input", "input_ids", "messages"), "prompt")


@completions.post("/v1/completions", stream=True)
async def create_completion(request: Request) -> HTTPResponse | None:
    """Continue one or several prompts, whole or as a stream."""
    ctx = context(request)
    with observed(request, "text_completion") as record, ctx.admission.admit(request), Naming(_FIELDS):
        limits = ctx.config.max_choices, ctx.config.max_prompts
        asked = await receive_json(request, ctx.config, lambda body: parse(body, *limits))
        record.ask(asked.model, stream=asked.stream)
        model = await ctx.groups.ready(asked.model)
        echoes = await _echoes(ctx, asked) if asked.echo else []
        answer = CompletionAnswer(asked.model, model.fingerprint, asked.include_usage, echoes)
        requests = [
            GenerateRequest(prompt, asked.sampling_parameters, asked.stream, request_id(request))
            for prompt in asked.prompts
        ]
        with Naming({"grammar": asked.grammar_field}):
            async with aclosing(generate_all(ctx.backend, asked.model, requests, asked.num_choices)) as pieces:
                return await respond(request, ctx, answer, pieces, stream=asked.stream)


async def _echoes(ctx: Context, asked: CompletionRequest) -> list[str]:
    texts = [
        prompt.text if prompt.text is not None else await ctx.backend.detokenize(asked.model, prompt.token_ids or [])
        for prompt in asked.prompts
    ]
    return [text for text in texts for _ in range(asked.num_choices)]
