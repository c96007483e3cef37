"""`POST /v1/chat/completions`: the way of a request from body to answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from sanic import Blueprint, HTTPResponse, Request, raw

from proxy import sse
from proxy.backend import GenerateRequest, Piece
from proxy.chat_request import parse
from proxy.chat_response import ChatAnswer
from proxy.context import Context, context
from proxy.errors import ApiError, DeadlineError, InternalError, describe
from proxy.json_body import require_json
from proxy.request_body import receive
from proxy.request_id import request_id

_log = logging.getLogger(__name__)

chat = Blueprint("chat")

Pieces = AsyncGenerator[Sequence[Piece], None]


@chat.post("/v1/chat/completions", stream=True)
async def create_chat_completion(request: Request) -> HTTPResponse | None:
    """Answer a conversation, whole or as a stream."""
    require_json(request.headers.getone("content-type", None))
    ctx = context(request)
    body = await receive(request, ctx.config.max_body_bytes, ctx.config.request_timeout)
    asked = parse(body, ctx.config.max_choices)
    model = await ctx.groups.ready(asked.model)
    answer = ChatAnswer(asked.model, model.fingerprint, asked.include_usage)
    generate = GenerateRequest(asked.messages, asked.sampling_parameters, asked.stream, request_id(request))
    _notice_disconnects(request)
    # Whatever ends this handler, a client that left included, closes the pieces: that frees the engine.
    async with aclosing(ctx.backend.generate(asked.model, generate)) as pieces:
        if asked.stream:
            await _stream(request, ctx, answer, pieces)
            return None
        return await _complete(ctx, answer, pieces)


async def _complete(ctx: Context, answer: ChatAnswer, pieces: Pieces) -> HTTPResponse:
    collected: list[Piece] = []
    try:
        async with asyncio.timeout(ctx.config.response_timeout or None):
            async for some in pieces:
                collected.extend(some)
    except TimeoutError:
        raise _late(ctx) from None
    return raw(msgspec.json.encode(answer.completion(collected)), content_type="application/json")


async def _stream(request: Request, ctx: Context, answer: ChatAnswer, pieces: Pieces) -> None:
    """Write the answer as events.

    Nothing is sent before the engine's first word, so that a refusal can still be a plain HTTP error. When
    that word takes longer than the keep-alive interval, the stream begins with a comment instead: from then
    on a refusal can only be an error event, but nobody in between takes the connection for dead.
    """
    async with sse.EventStream(request, ctx.config.sse_keep_alive) as stream:
        try:
            async with asyncio.timeout(ctx.config.response_timeout or None):
                async for some in pieces:
                    data = sse.encode(answer.chunks(some))
                    if some[-1].usage is not None:
                        await stream.write(data + sse.DONE, end=True)
                    elif data:
                        await stream.write(data)
        except Exception as error:
            failure = _late(ctx) if isinstance(error, TimeoutError) else error
            if not stream.begun:
                raise failure from None
            await _fail(request, stream, failure)
        finally:
            ctx.shutdown.release(request)


async def _fail(request: Request, stream: sse.EventStream, error: Exception) -> None:
    """End a stream that has begun with an error event and without `[DONE]`."""
    if not isinstance(error, ApiError):
        _log.error("request %s failed while streaming", request_id(request), exc_info=error)
        error = InternalError("The server failed while streaming the answer.")
    else:
        _log.warning("request %s ended with an error event: %s", request_id(request), error.message)
    await stream.write(sse.encode([describe(error)]), end=True)


def _late(ctx: Context) -> ApiError:
    return DeadlineError(f"The answer took longer than {ctx.config.response_timeout:g} seconds.")


def _notice_disconnects(request: Request) -> None:
    """Let the connection be read while the answer is made.

    Sanic stops reading when a body fills its buffer, and a connection that is not read never learns that the
    client has left. Should more arrive, Sanic pauses again.
    """
    if request.transport is not None and not request.transport.is_closing():
        request.transport.resume_reading()  # type: ignore[attr-defined]
