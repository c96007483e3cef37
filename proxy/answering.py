"""From pieces to a response, whole or as events: the same for every route that generates."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import msgspec
from sanic import HTTPResponse, Request

from proxy import sse
from proxy.answer import Answer
from proxy.backend import Piece
from proxy.context import Context
from proxy.errors import ApiError, DeadlineError, InternalError
from proxy.record import record_of
from proxy.request_id import request_id
from proxy.response import Response

_log = logging.getLogger(__name__)

Pieces = AsyncGenerator[Sequence[Piece], None]


async def respond(
    request: Request,
    ctx: Context,
    answer: Answer,
    pieces: Pieces,
    *,
    stream: bool,
    wire: sse.Wire = sse.OPENAI_WIRE,
) -> HTTPResponse | None:
    """Answer `request`. Whatever ends this, a client that left included, the caller closes the pieces."""
    _notice_disconnects(request)
    if stream:
        await _stream(request, ctx, answer, pieces, wire)
        return None
    return await _complete(request, ctx, answer, pieces)


async def _complete(request: Request, ctx: Context, answer: Answer, pieces: Pieces) -> HTTPResponse:
    collected: list[Piece] = []
    note = record_of(request).note
    try:
        async with _deadline(ctx):
            async for some in pieces:
                note(some)
                collected.extend(some)
    except TimeoutError:
        raise _late(ctx) from None
    return Response(msgspec.json.encode(answer.completion(collected)), content_type="application/json")


async def _stream(request: Request, ctx: Context, answer: Answer, pieces: Pieces, wire: sse.Wire) -> None:
    """Write the answer as events.

    Nothing is sent before the engine's first word, so that a refusal can still be a plain HTTP error. When
    that word takes longer than the keep-alive interval, the stream begins with a comment instead: from then
    on a refusal can only be an error event, but nobody in between takes the connection for dead.
    """
    record = record_of(request)
    async with sse.EventStream(request, ctx.config.sse_keep_alive) as stream:
        try:
            async with _deadline(ctx):
                async for some in pieces:
                    record.note(some)
                    data = wire.encode(answer.chunks(some))
                    if some[-1].usage is not None:
                        await stream.write(data + wire.done, end=True)
                        record.is_answered = True
                    elif data:
                        await stream.write(data)
        except Exception as error:
            failure = _late(ctx) if isinstance(error, TimeoutError) else error
            if not stream.begun:
                raise failure from None
            await _fail(request, ctx, stream, answer, wire, failure)
        finally:
            ctx.shutdown.release(request)


async def _fail(
    request: Request, ctx: Context, stream: sse.EventStream, answer: Answer, wire: sse.Wire, error: Exception
) -> None:
    """End a stream that has begun by telling of the error, without what ends an answer."""
    if not isinstance(error, ApiError):
        _log.error("request %s failed while streaming", request_id(request), exc_info=error)
        error = InternalError("The server failed while streaming the answer.")
    else:
        _log.warning("request %s ended with an error event: %s", request_id(request), error.message)
    record_of(request).fail(error)
    ctx.meter.told(error)
    await stream.write(wire.encode(answer.failure(error)), end=True)


def _deadline(ctx: Context) -> AbstractAsyncContextManager[object]:
    """Raises TimeoutError within its block once an answer takes too long, if there is a limit."""
    limit = ctx.config.response_timeout
    return asyncio.timeout(limit) if limit else nullcontext()


def _late(ctx: Context) -> ApiError:
    return DeadlineError(
        f"The answer took longer than {ctx.config.response_timeout:g} seconds.", code="deadline_exceeded"
    )


def _notice_disconnects(request: Request) -> None:
    """Let the connection be read while the answer is made.

    Sanic stops reading when a body fills its buffer, and a connection that is not read never learns that the
    client has left. Should more arrive, Sanic pauses again.
    """
    if request.transport is not None and not request.transport.is_closing():
        request.transport.resume_reading()  # type: ignore[attr-defined]
