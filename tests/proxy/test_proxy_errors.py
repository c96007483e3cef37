"""Every failure on every route has OpenAI's error body, and every response a request id."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from typing import Any

import httpx
import pytest

from proxy.errors import ApiError, UnavailableError
from proxy.request_body import parsed
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import FakeBackend

ROUTES = [
    ("/v1/chat/completions", {"POST", "OPTIONS"}),
    ("/v1/models", {"GET", "HEAD", "OPTIONS"}),
    ("/v1/models/primary", {"GET", "HEAD", "OPTIONS"}),
    ("/v1/completions", {"POST", "OPTIONS"}),
    ("/v1/responses", {"POST", "OPTIONS"}),
    ("/tokenize", {"POST", "OPTIONS"}),
    ("/detokenize", {"POST", "OPTIONS"}),
    ("/version", {"GET", "HEAD", "OPTIONS"}),
    ("/openapi.json", {"GET", "HEAD", "OPTIONS"}),
    ("/docs", {"GET", "HEAD", "OPTIONS"}),
    ("/health", {"GET", "HEAD", "OPTIONS"}),
    ("/health/ready", {"GET", "HEAD", "OPTIONS"}),
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models", "/v1/chat", "/favicon.ico", "/v1/embeddings", "/%ff"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_an_unknown_route_is_a_404(server: Server, path: str, method: str) -> None:
    response = await server.http.request(method, path)
    assert response.status_code == 404
    assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(("path", "allowed"), ROUTES)
@pytest.mark.parametrize("method", METHODS)
async def test_each_route_answers_its_methods_and_refuses_the_others(
    server: Server, path: str, allowed: set[str], method: str
) -> None:
    response = await server.http.request(method, path)
    assert response.status_code < 500
    assert response.headers["x-request-id"]
    if method == "OPTIONS":
        assert response.status_code == 204
        assert set(response.headers["allow"].split(", ")) >= allowed - {"OPTIONS"}
        assert not [name for name in response.headers if name.startswith("access-control-")]
    elif method in allowed:
        assert response.status_code != 405
    else:
        assert response.status_code == 405
        assert set(response.headers["allow"].split(", ")) >= allowed - {"OPTIONS"}
        if method != "HEAD":
            assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/primary", "/health/ready"])
async def test_head_is_get_without_a_body(server: Server, path: str) -> None:
    get, head = await server.http.get(path), await server.http.head(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]


async def test_no_origin_is_let_in(server: Server) -> None:
    headers = {"origin": "https://example.com", "access-control-request-method": "POST"}
    response = await server.http.options("/v1/chat/completions", headers=headers)
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_body_over_the_limit_is_a_413(serve: Serve, backend: FakeBackend) -> None:
    server = await serve(max_body_bytes=1000)
    assert (await server.chat(user="x" * 500)).status_code == 200
    response = await server.chat(user="x" * 1000)
    assert response.status_code == 413
    assert error_of(response)["type"] == "invalid_request_error"
    assert len(backend.requests) == 1


async def test_a_large_body_is_parsed_beside_what_else_there_is_to_do() -> None:
    """16 MB of small objects held up all streams of the process for a second."""
    others_went_on = threading.Event()
    parsing = asyncio.create_task(parsed(lambda _: others_went_on.wait(5), b" " * 1_000_000))
    await asyncio.sleep(0)
    others_went_on.set()
    assert await parsing


async def test_a_large_body_is_parsed_without_the_garbage_collector_which_comes_back() -> None:
    """It went over each of the body's lists again and again, and everybody waited for it."""
    assert not await parsed(lambda _: gc.isenabled(), b" " * 1_000_000)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        await parsed(lambda _: 1 / 0, b" " * 1_000_000)
    assert gc.isenabled()


async def test_brackets_without_end_are_refused_on_the_thread_of_large_bodies_too(server: Server) -> None:
    body = b'{"model": "primary", "metadata": ' + b"[" * 500_000
    response = await server.http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert "nested too deeply" in response.json()["error"]["message"]


async def test_a_client_that_sends_far_too_much_still_reads_the_413(server: Server) -> None:
    """The connection used to be closed under the upload, and SDKs tried again instead of seeing the error."""
    response = await server.chat(user="x" * (40 << 20))
    assert response.status_code == 413
    assert (await server.chat()).status_code == 200


async def test_a_small_limit_for_bodies_is_none_for_headers(serve: Serve) -> None:
    server = await serve(max_body_bytes=100)
    assert (await server.http.get("/health", headers={"x": "y" * 2000})).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"{"])
async def test_a_body_that_does_not_come_is_a_408(serve: Serve, sent: bytes) -> None:
    server = await serve(request_timeout=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 10\r\n\r\n" + sent)
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 2)
    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_header_that_does_not_come_is_a_408(serve: Serve) -> None:
    server = await serve(request_timeout=0.2)
    answer = await server.send(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"error"' in answer


async def test_a_client_that_asks_before_it_sends_is_answered(server: Server) -> None:
    body = b'{"model":"primary","messages":[{"role":"user","content":"Hi"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head % len(body))
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)).startswith(b"HTTP/1.1 100 ")
    writer.write(body)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_chunked_body_over_the_limit_is_a_413(serve: Serve) -> None:
    server = await serve(max_body_bytes=1000)

    async def body() -> Any:
        for _ in range(20):
            yield b"x" * 100

    response = await server.http.post("/v1/chat/completions", content=body())
    assert response.status_code == 413
    assert error_of(response)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"G\xffT / HTTP/1.1\r\nconnection: close\r\n\r\n", 404),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: \xff\r\nconnection: close\r\n\r\n", 415),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno-colon\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx", 400),
        (b"GET / HTTP/1.1\r\nexpect: tea\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 413),
    ],
)
async def test_malformed_http_has_an_error_body_too(server: Server, data: bytes, status: int) -> None:
    head, _, body = (await server.send(data)).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status, head
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert b"x-request-id: " in head


async def test_a_sane_request_id_is_echoed_and_reaches_the_engine(server: Server, backend: FakeBackend) -> None:
    response = await server.http.post(
        "/v1/chat/completions",
        json={"model": "primary", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
        headers={"x-request-id": "trace-17:a/b"},
    )
    assert response.headers["x-request-id"] == "trace-17:a/b"
    assert backend.last.request_id == "trace-17:a/b"


@pytest.mark.parametrize("offered", ["", "a b", "x" * 129, "é", "<script>", '"', "a\tb"])
async def test_another_request_id_is_replaced(server: Server, offered: str) -> None:
    response = await server.http.get("/health", headers={b"x-request-id": offered.encode()})
    assert response.headers["x-request-id"] != offered
    assert len(response.headers["x-request-id"]) == 32


async def test_each_request_on_one_connection_has_an_id_of_its_own(server: Server) -> None:
    ids = {(await server.http.get("/health")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("path", ["/health", "/nothing"])
async def test_no_header_tells_about_the_machinery(server: Server, path: str) -> None:
    response = await server.http.get(path)
    assert set(response.headers) <= {
        "content-length",
        "content-type",
        "connection",
        "x-request-id",
        "alt-svc",
    }


async def test_an_unreachable_triton_is_a_503_that_says_so(server: Server, backend: FakeBackend) -> None:
    backend.failure = UnavailableError("The inference server at x cannot be reached. Please try again.")
    await server.app.ctx.context.groups.refresh()
    response = await server.chat()
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert "cannot be reached" in error_of(response)["message"]


def test_every_error_class_has_a_status_of_its_kind() -> None:
    def all_of(kind: type[ApiError]) -> set[type[ApiError]]:
        return {kind}.union(*(all_of(child) for child in kind.__subclasses__()))

    for kind in all_of(ApiError):
        assert 400 <= kind.status < 600
        if kind.type == "invalid_request_error":
            assert kind.status < 500
