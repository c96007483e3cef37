"""One line for each request: its id, its group, its tokens, its times, its end; nothing of what was said."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.backend import Piece
from proxy.logs import Line, configure
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import DESCRIPTION, FakeBackend, stall

SECRET = "the launch code is 0000"


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "proxy")


def lines(caplog: pytest.LogCaptureFixture, message: str = "request") -> list[dict[str, Any]]:
    found = [record.msg for record in caplog.records if record.name == "proxy.requests"]
    return [line for line in found if line["message"] == message]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_is_one_line(server: Server, caplog: pytest.LogCaptureFixture, stream: bool):
    response = await server.chat(stream=stream, messages=[{"role": "user", "content": SECRET}])
    (line,) = lines(caplog)
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["operation"], line["group"], line["stream"]) == ("chat", "primary", stream)
    assert (line["outcome"], line["status"]) == ("finished", 200)
    assert (line["prompt_tokens"], line["cached_tokens"]) == (7, 4)
    assert line["total_ms"] >= line.get("first_token_ms", 0)
    assert ("first_token_ms" in line) == stream
    assert SECRET not in caplog.text
    assert "Hello" not in caplog.text


async def test_a_refusal_is_one_line_too_and_tells_its_reason_but_not_what_was_sent(
    serve: Serve, caplog: pytest.LogCaptureFixture
):
    server = await serve(api_keys=("sesame",))
    await server.chat()
    server.http.headers["authorization"] = "Bearer sesame"
    await server.chat(temperature=SECRET)
    await server.chat(model=SECRET)
    refused, unknown = lines(caplog)
    assert (refused["outcome"], refused["error"], refused["status"]) == ("refused", "invalid_request", 400)
    assert (unknown["error"], unknown["group"]) == ("model_not_found", "unknown")
    (unauthorized,) = lines(caplog, "other request")
    assert (unauthorized["status"], unauthorized["route"]) == (401, "/v1/chat/completions")
    assert not {"sesame", SECRET} & set(caplog.text.split("'"))
    assert "sesame" not in caplog.text
    assert SECRET not in caplog.text


async def test_a_group_stands_under_its_own_name_beside_the_alias_that_was_asked_for(
    server: Server, backend: FakeBackend, caplog: pytest.LogCaptureFixture
):
    backend.description = replace(DESCRIPTION, aliases=("gpt-4",))
    await server.chat()
    await server.chat(model="gpt-4")
    await server.chat(model="gpt-5")
    names = [(line.get("group"), line.get("alias")) for line in lines(caplog)]
    assert names == [("primary", None), ("primary", "gpt-4"), ("unknown", None)]


async def test_a_client_that_leaves_is_a_line(server: Server, backend: FakeBackend, caplog: pytest.LogCaptureFixture):
    backend.script = stall([Piece(0, "a", 1)])
    body = {"model": "primary", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        await anext(response.aiter_raw())
    await asyncio.wait_for(backend.closed.wait(), 5)
    await asyncio.sleep(0)
    (line,) = lines(caplog)
    assert line["outcome"] == "cancelled"


async def test_health_checks_do_not_fill_the_log(server: Server, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "proxy")
    for path in ("/health", "/health/ready", "/metrics", "/v1/models"):
        await server.http.get(path)
    assert not [record for record in caplog.records if record.name == "proxy.requests"]


@pytest.fixture
def own_logging() -> Any:
    """The root logger as it was, afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def test_json_lines_hold_the_facts_as_keys(own_logging: None, capsys: pytest.CaptureFixture[str]):
    configure("json", "info")
    logging.getLogger("proxy.requests").info(Line("request", request_id="r1", total_ms=12, group='a "b"', none=None))
    logging.getLogger("other").debug("not at this level")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("proxy").exception("it failed\nbadly")
    request, failure = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (
        request.items()
        >= {
            "level": "INFO",
            "logger": "proxy.requests",
            "message": "request",
            "request_id": "r1",
            "total_ms": 12,
            "group": 'a "b"',
        }.items()
    )
    assert {"time", "pid"} <= set(request)
    assert failure["message"] == "it failed\nbadly"
    assert "ValueError: why" in failure["exc_info"]


def test_a_line_of_text_is_one_line_whatever_a_client_sends(own_logging: None, capsys: pytest.CaptureFixture[str]):
    configure("text", "info")
    logging.getLogger("proxy.requests").info(
        Line("request", request_id="r1", group="a\nERROR forged=yes", stream=True, owner=None)
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r'request request_id=r1 group="a\nERROR forged=yes" stream=true')
