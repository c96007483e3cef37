"""One request through the real proxy, Triton and engine is one trace, and has one id in both logs and in its answer."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.conftest import READY
from tests.engine.tiny_models import save_model
from tests.launch.launched import Launched, launched

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "xyzzy-plugh"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A service with a tiny model, traces, and logs in JSON."""
    run_dir = tmp_path_factory.mktemp("traced")
    model = save_model("gpt2", run_dir / "tiny-gpt2")
    settings = {"TAKEOFF_MODEL_NAME": str(model), "TAKEOFF_DEVICE": "cpu", "TAKEOFF_LOG_FORMAT": "json"}
    with launched(run_dir, **settings, **receiver.environ) as launch:
        launch.wait_until_it_says(READY)
        yield launch


def ask(service: Launched, **body: Any) -> httpx.Response:
    asked = {"model": "primary", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5, **body}
    url = f"http://127.0.0.1:{service.ports['OPENAI_PORT']}/v1/chat/completions"
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT}-01", "x-request-id": "my-request"}
    return httpx.post(url, json=asked, headers=headers, timeout=60)


def lines(log: Path, logger: str, count: int) -> list[dict[str, Any]]:
    """The request's lines in a log, as soon as there are so many."""
    deadline = time.monotonic() + 10
    while True:
        found = [json.loads(line) for line in log.read_text().splitlines() if '"my-request"' in line]
        if len(found) >= count:
            return [line for line in found if line["logger"] == logger]
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_a_request_is_one_trace_from_http_to_the_last_token_and_has_one_id(traced: Launched, receiver: OtlpReceiver):
    response = ask(traced, stream=True)
    assert response.headers["x-request-id"] == "my-request"
    spans = {span.name: span for span in receiver.spans(6, TRACE_ID)}
    order = ("POST /v1/chat/completions", "chat primary", "engine primary")
    http, chat, engine = (spans[name] for name in order)
    assert [http.parent_id, chat.parent_id, engine.parent_id] == [PARENT, http.span_id, chat.span_id]
    inside = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {span.parent_id for span in inside} == {engine.span_id}
    assert (http.service, engine.service) == ("slipstream-proxy", "slipstream-engine")
    assert _is_within(engine, chat)
    assert _is_within(chat, http)
    assert engine.attributes["gen_ai.usage.output_tokens"] == chat.attributes["gen_ai.usage.output_tokens"] == 5
    assert {span.attributes["slipstream.request_id"] for span in (http, chat, engine)} == {"my-request"}
    assert SECRET not in repr(spans)

    (of_proxy,) = lines(traced.run_dir / "proxy.log", "proxy.requests", 1)
    (of_model,) = lines(traced.run_dir / "triton.log", "slipstream.requests", 1)
    tokens = {name: of_model[name] for name in ("prompt_tokens", "cached_tokens", "generated_tokens")}
    assert of_proxy.items() >= {"group": "primary", "outcome": "finished", "status": 200, **tokens}.items()
    assert (of_model["model"], of_model["outcome"]) == ("primary", "length")
    for name in ("proxy", "triton", "keeper"):
        assert SECRET not in (traced.run_dir / f"{name}.log").read_text()


def _is_within(inner: ReceivedSpan, outer: ReceivedSpan, slack: int = 5_000_000) -> bool:
    """Two processes read the clock; 5 ms between them are no fault."""
    return outer.start - slack <= inner.start <= inner.end <= outer.end + slack


def test_a_prompt_that_is_too_long_is_traced_to_where_it_was_refused(traced: Launched, receiver: OtlpReceiver):
    before = len(receiver.spans(0, TRACE_ID))
    assert ask(traced, messages=[{"role": "user", "content": "word " * 2000}]).status_code == 400
    spans = {span.name: span for span in receiver.spans(before + 4, TRACE_ID)[before:]}
    for name in ("POST /v1/chat/completions", "chat primary", "engine primary"):
        assert spans[name].attributes["error.type"] == "context_length_exceeded"
        assert not spans[name].is_error


def test_a_model_that_was_killed_counts_on_where_it_was_and_once_more_as_started(traced: Launched):
    def engine() -> dict[str, float]:
        page = httpx.get(f"http://127.0.0.1:{traced.ports['TRITON_METRICS_PORT']}/metrics", timeout=10).text
        pairs = re.findall(r'^slipstream_engine_(\w+)\{model="primary"\} (\S+)$', page, re.MULTILINE)
        return {name: float(value) for name, value in pairs}

    assert ask(traced).status_code == 200
    time.sleep(1.5)  # numbers are carried over once a second
    before = engine()
    (stub,) = traced.processes("triton_python_backend_stub")
    os.kill(stub, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while engine()["starts_total"] == before["starts_total"] or ask(traced).status_code != 200:
        assert time.monotonic() < deadline, (traced.run_dir / "keeper.log").read_text()
        time.sleep(0.2)
    time.sleep(1.5)
    after = engine()
    assert after["starts_total"] == before["starts_total"] + 1
    assert after["start_time_seconds"] > before["start_time_seconds"]
    assert after["generated_tokens_total"] >= before["generated_tokens_total"] + 5
    assert after["sequences_running"] == 0
