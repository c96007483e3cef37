"""Traces as a real receiver gets them: one for a request, the client's own carried on, nothing of what was said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from benchmarks.otlp_receiver import OtlpReceiver, ReceivedSpan
from proxy.backend import Piece
from proxy.errors import InternalError, OverloadedError
from proxy.tracing import is_asked_for
from tests.launch.launched import ROOT
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import FakeBackend, respond

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
SECRET = "the launch code is 0000"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        for name, value in receiver.environ.items():
            monkeypatch.setenv(name, value)
        yield receiver


@pytest_asyncio.fixture
async def traced(receiver: OtlpReceiver, serve: Serve) -> AsyncIterator[Server]:
    server = await serve()
    server.http.headers["traceparent"] = TRACEPARENT
    yield server


def by_name(spans: list[ReceivedSpan]) -> dict[str, ReceivedSpan]:
    return {span.name: span for span in spans}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_is_one_trace_that_goes_on_from_the_clients(
    traced: Server, receiver: OtlpReceiver, backend: FakeBackend, stream: bool
):
    messages = [{"role": "user", "content": SECRET}]
    response = await traced.chat(stream=stream, messages=messages, temperature=0.5, max_tokens=9)
    spans = by_name(await _spans(receiver, 2, TRACE_ID))
    http, chat = spans["POST /v1/chat/completions"], spans["chat primary"]
    assert http.parent_id == "b7ad6b7169203331"
    assert chat.parent_id == http.span_id
    assert http.start <= chat.start <= chat.end <= http.end
    assert backend.last.trace["traceparent"] == f"00-{TRACE_ID}-{chat.span_id}-01"
    assert http.service == "slipstream-proxy"
    assert (
        http.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "slipstream.request_id": response.headers["x-request-id"],
        }.items()
    )
    assert (
        chat.attributes.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "slipstream",
            "gen_ai.request.model": "primary",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.max_tokens": 9,
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.usage.cache_read.input_tokens": 4,
        }.items()
    )
    assert chat.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert chat.events == ("first response",)
    assert SECRET not in repr(spans)
    assert "Hello" not in repr(spans)


async def test_what_was_said_is_told_when_asked_for(
    receiver: OtlpReceiver, serve: Serve, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    server = await serve()
    await server.chat(stream=True, messages=[{"role": "user", "content": SECRET}])
    chat = by_name(await _spans(receiver, 2))["chat primary"]
    (asked,) = json.loads(chat.attributes["gen_ai.input.messages"])
    (said,) = json.loads(chat.attributes["gen_ai.output.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
    assert said == {"role": "assistant", "parts": [{"type": "text", "content": "Hello world"}]}


async def test_several_prompts_are_several_children(traced: Server, receiver: OtlpReceiver):
    await traced.http.post("/v1/completions", json={"model": "primary", "prompt": ["a", "b"]})
    spans = await _spans(receiver, 3, TRACE_ID)
    (http,) = [span for span in spans if span.name == "POST /v1/completions"]
    assert [span.parent_id for span in spans if span.name == "text_completion primary"] == [http.span_id] * 2


async def test_failures_are_errors_and_refusals_only_have_their_type(
    traced: Server, receiver: OtlpReceiver, backend: FakeBackend
):
    backend.script = respond([Piece(0, "a", 1)], InternalError("broken"))
    await traced.chat(stream=True)
    spans = by_name(await _spans(receiver, 2, TRACE_ID))
    assert all(span.is_error and span.attributes["error.type"] == "internal" for span in spans.values())
    backend.script = respond(OverloadedError("full"))
    traced.http.headers["traceparent"] = f"00-{'1' * 32}-{'2' * 16}-01"
    await traced.chat()
    refused = by_name(await _spans(receiver, 2, "1" * 32))
    assert all(not span.is_error and span.attributes["error.type"] == "overloaded" for span in refused.values())


@pytest.mark.parametrize("header", ["", "nonsense", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_context_that_is_none_begins_a_trace_of_its_own(traced: Server, receiver: OtlpReceiver, header: str):
    traced.http.headers["traceparent"] = header
    assert (await traced.chat()).status_code == 200
    http = by_name(await _spans(receiver, 2))["POST /v1/chat/completions"]
    assert http.parent_id == ""


async def test_a_trace_that_the_client_does_not_record_is_not_sent(
    traced: Server, receiver: OtlpReceiver, backend: FakeBackend
):
    traced.http.headers["traceparent"] = TRACEPARENT[:-1] + "0"
    await traced.chat()
    assert backend.last.trace["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert backend.last.trace["traceparent"].endswith("-00")
    traced.http.headers["traceparent"] = f"00-{'1' * 32}-{'2' * 16}-01"
    await traced.chat()
    spans = await _spans(receiver, 2)
    assert {span.trace_id for span in spans} == {"1" * 32}


async def _spans(receiver: OtlpReceiver, count: int, trace_id: str = "") -> list[ReceivedSpan]:
    import asyncio

    return await asyncio.to_thread(receiver.spans, count, trace_id)


@pytest.mark.parametrize(
    ("environ", "is_on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_the_standard_variables_turn_traces_on_and_off(environ: dict[str, str], is_on: bool):
    assert is_asked_for(environ) == is_on


def test_nothing_of_opentelemetry_is_imported_while_traces_are_off():
    program = (
        "import sys; sys.path[:0] = ['model_repository/primary/1', 'tests/model_repository/fake_triton']; "
        "import proxy.process, engine_traces, request_log; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
