"""Keys, limits and origins: who gets in, on every route, and what it may cost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from proxy.api_keys import ApiKeys, KeyFileError
from proxy.errors import AuthenticationError
from proxy.response import Response
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import FakeBackend, stall

ALICE, BOB = {"authorization": "Bearer sk-alice"}, {"authorization": "Bearer sk-bob"}
BODY = {"model": "primary", "messages": [{"role": "user", "content": "Hi"}]}


async def chat(server: Server, headers: dict[str, str], **fields: Any) -> httpx.Response:
    return await server.http.post("/v1/chat/completions", json={**BODY, **fields}, headers=headers)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/primary", "/v1/chat/completions", "/version", "/nowhere", "/", "/openapi.json"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_without_a_key_nothing_is_told(serve: Serve, path: str, method: str) -> None:
    server = await serve(api_keys=("sk-alice",))
    response = await server.http.request(method, path)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_health_needs_no_key(serve: Serve, path: str) -> None:
    server = await serve(api_keys=("sk-alice",))
    assert (await server.http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer sk-alic", "Bearer sk-alice2", "Basic sk-alice", "sk-alice", "Bearer sk alice"],
)
async def test_what_is_no_key_does_not_open(serve: Serve, header: str, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(api_keys=("sk-alice",))
    response = await chat(server, {"authorization": header})
    assert response.status_code == 401
    assert "sk-" not in response.text
    assert "sk-" not in caplog.text


async def test_each_key_opens(serve: Serve) -> None:
    server = await serve(api_keys=("sk-alice", "sk-bob"))
    for headers in (ALICE, BOB, {"authorization": "bearer  sk-bob"}):
        assert (await chat(server, headers)).status_code == 200


async def test_a_key_is_asked_for_before_the_body_is_read(serve: Serve) -> None:
    server = await serve(api_keys=("sk-alice",))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 401 ")
    writer.close()
    await writer.wait_closed()


async def test_the_sdk_sees_its_own_errors(serve: Serve) -> None:
    server = await serve(api_keys=("sk-alice",), max_requests_per_minute=1)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError) as refusal:
            await sdk.models.list()
        assert refusal.value.code == "invalid_api_key"
        known = sdk.with_options(api_key="sk-alice")
        await known.chat.completions.create(**BODY)
        with pytest.raises(openai.RateLimitError) as limit:
            await known.chat.completions.create(**BODY)
        assert limit.value.code == "rate_limit_exceeded"


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nalice sk-alice  # from Monday on\n\nsk-nameless\n")
    keys = ApiKeys(("sk-fixed",), str(file))
    assert keys.owner("Bearer sk-alice") == "alice"
    assert keys.owner("Bearer sk-nameless").startswith("key-")
    file.write_text("bob sk-bob\n")
    keys._next_look = 0.0
    assert keys.owner("Bearer sk-bob") == "bob"
    assert keys.owner("Bearer sk-fixed").startswith("key-")
    with pytest.raises(AuthenticationError):
        keys.owner("Bearer sk-alice")
    with caplog.at_level(logging.ERROR):
        file.write_text("one two three\n")
        keys._next_look = 0.0
        assert keys.owner("Bearer sk-bob") == "bob"
    assert "line 1" in caplog.text
    file.unlink()
    keys._next_look = 0.0
    assert keys.owner("Bearer sk-bob") == "bob"


async def test_a_key_that_is_written_into_the_file_opens_and_one_that_is_struck_out_does_not(
    serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("alice sk-alice\n")
    server = await serve(api_keys_file=str(file))
    assert (await chat(server, ALICE)).status_code == 200
    assert (await chat(server, BOB)).status_code == 401
    file.write_text("bob sk-bob\n")
    async with asyncio.timeout(10):
        while (await chat(server, BOB)).status_code != 200:  # noqa: ASYNC110 (a file has no event)
            await asyncio.sleep(0.1)
    assert (await chat(server, ALICE)).status_code == 401


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"a b c\n", b"\xff\n", None])
def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeyFileError, match="keys"):
        ApiKeys((), str(file))


async def test_requests_per_minute_are_counted_for_each_key(serve: Serve) -> None:
    server = await serve(api_keys=("sk-alice", "sk-bob"), max_requests_per_minute=2)
    first, second, third = [await chat(server, ALICE) for _ in range(3)]
    assert [r.status_code for r in (first, second, third)] == [200, 200, 429]
    assert [r.headers["x-ratelimit-remaining-requests"] for r in (first, second, third)] == ["1", "0", "0"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(third.headers["retry-after"]) <= 61
    assert (await chat(server, BOB)).status_code == 200
    assert (await server.http.get("/v1/models", headers=ALICE)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_at_once_are_counted_and_their_places_come_back(
    serve: Serve, backend: FakeBackend, stream: bool
) -> None:
    server = await serve(api_keys=("sk-alice", "sk-bob"), max_concurrent_requests=2)
    calm, backend.script = backend.script, stall()
    running = [asyncio.create_task(chat(server, ALICE, stream=stream)) for _ in range(2)]
    await until(lambda: backend.num_open == 2)
    refused = await chat(server, ALICE)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    backend.script = calm
    assert (await chat(server, BOB)).status_code == 200
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    await until(lambda: backend.num_open == 0)
    for _ in range(5):
        assert (await chat(server, ALICE, stream=stream)).status_code == 200
    assert (await chat(server, ALICE, temperature=9)).status_code == 400
    assert not server.app.ctx.context.admission._running


async def test_no_page_gets_in_unless_its_origin_is_known(server: Server) -> None:
    response = await server.http.get("/v1/models", headers={"origin": "https://a.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("origins", "answer"), [(("https://a.example",), "https://a.example"), (("*",), "*")])
async def test_a_known_origin_gets_in_also_to_errors_and_streams(
    serve: Serve, origins: tuple[str, ...], answer: str
) -> None:
    server = await serve(cors_origins=origins, api_keys=("sk-alice",))
    page = {"origin": "https://a.example"}
    for response in (
        await server.http.get("/v1/models", headers={**page, **ALICE}),
        await server.http.get("/nowhere", headers=page),
        await chat(server, {**page, **ALICE}, stream=True),
    ):
        assert response.headers["access-control-allow-origin"] == answer
        assert response.headers["vary"] == "origin"
        assert "x-request-id" in response.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in response.headers


FOREIGN = [
    "https://a.example",
    "http://localhost.a.example:3003",
    "http://127.0.0.1.a.example",
    "null",
    "http://[",
    "http://",
]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
async def test_a_page_from_elsewhere_cannot_use_what_only_this_machine_reaches(
    server: Server, backend: FakeBackend, origin: str, path: str
) -> None:
    """Without a content type a browser posts unasked; and a page's name may mean this machine later on."""
    host = origin.partition("//")[2] or "localhost"
    response = await server.http.post(path, content=json.dumps(BODY), headers={"origin": origin, "host": host})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "origin_not_allowed"
    assert not backend.requests


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:3000", "http://app.localhost", "app://chat"],
)
async def test_pages_of_this_machine_and_programs_may_ask(server: Server, origin: str) -> None:
    assert (await chat(server, {"origin": origin})).status_code == 200


async def test_a_page_from_elsewhere_may_ask_with_a_key_a_known_origin_or_what_is_open_to_others(serve: Serve) -> None:
    page = {"origin": "https://a.example"}
    assert (await chat(await serve(api_keys=("sk-alice",)), {**page, **ALICE})).status_code == 200
    assert (await chat(await serve(cors_origins=("https://a.example",)), page)).status_code == 200
    assert (await chat(await serve(cors_origins=("*",)), page)).status_code == 200
    assert (await chat(await serve(host="0.0.0.0"), page)).status_code == 200


async def test_a_preflight_needs_no_key(serve: Serve) -> None:
    server = await serve(cors_origins=("https://a.example",), api_keys=("sk-alice",))
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    response = await server.http.options("/v1/chat/completions", headers={"origin": "https://a.example", **ask})
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "authorization, content-type"
    other = await server.http.options("/v1/chat/completions", headers={"origin": "https://b.example", **ask})
    assert other.status_code == 401
    assert "access-control-allow-origin" not in other.headers


async def test_the_number_of_messages_is_a_setting(serve: Serve) -> None:
    server = await serve(max_messages=2)
    response = await server.chat(messages=BODY["messages"] * 3)  # type: ignore[operator]
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages"


@pytest.mark.parametrize("bad", ["x\r\nset-cookie: a=b", "x\nset-cookie: a=b", "x\0set-cookie: a=b"])
def test_a_line_break_never_gets_into_an_answers_headers(bad: str) -> None:
    response = Response(b"", headers={"x-request-id": bad, bad: "value"}, content_type="application/json")
    headers = dict(response.processed_headers)
    assert headers == {
        b"x-request-id": b"xset-cookie: a=b",
        b"xset-cookie: a=b": b"value",
        b"content-type": b"application/json",
    }
