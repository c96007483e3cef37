"""Streaming to clients of HTTP/1.0, which know no chunks: the body runs to the connection's end.

Sanic sends chunks to them too; this takes the place of the two methods of its that do. nginx speaks HTTP/1.0 to what
lies behind it unless told otherwise.
"""

from __future__ import annotations

from sanic import Request
from sanic.headers import format_http1_response
from sanic.http import Http
from sanic.http.constants import Stage


def send_unchunked(request: Request) -> None:
    """Answer `request` without chunks, if its client is one of HTTP/1.0; before anything has been sent."""
    stream = request.stream
    if request.version != "1.0" or not isinstance(stream, Http):
        return
    stream.keep_alive = False

    async def send_head(data: bytes, end_stream: bool) -> None:
        response = stream.response
        assert response is not None
        response.headers["connection"] = "close"
        stream.response_func = send_body
        stream.stage = Stage.RESPONSE
        await send_body(format_http1_response(response.status, response.processed_headers) + data, end_stream)

    async def send_body(data: bytes, end_stream: bool) -> None:
        await stream._send(data)
        if end_stream:
            stream.response_func = None  # type: ignore[assignment]  # as Sanic itself ends a response
            stream.stage = Stage.IDLE

    stream.response_func = send_head
