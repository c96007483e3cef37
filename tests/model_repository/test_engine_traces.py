"""The engine's spans as a real receiver gets them: queue, prefill and decode inside the caller's trace."""

import time
from collections.abc import Iterator

import pytest
from engine_traces import LAST_SECONDS, EngineTraces, is_asked_for
from llm.errors import OverloadedError
from llm.observer import Timeline
from llm.request import GenerationRequest, SamplingParams, Submission
from triton_io import read_trace

from benchmarks.otlp_receiver import OtlpReceiver
from proxy import tracing
from tests.engine.fakes import RecordingSink, counting_engine
from tests.model_repository.fakes import request

TRACE_ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        for name, value in receiver.environ.items():
            monkeypatch.setenv(name, value)
        yield receiver


def timeline() -> Timeline:
    return Timeline(request_id="r1", trace={"traceparent": f"00-{TRACE_ID}-{PARENT}-01"})


def test_an_answer_is_a_span_with_its_stations_without_a_gap(receiver: OtlpReceiver):
    engine, _ = counting_engine()
    traces = EngineTraces("primary", {})
    engine.observers.append(traces)
    asked = GenerationRequest((1, 2), SamplingParams(max_tokens=3))
    engine.submit(Submission(asked, RecordingSink(), timeline()))
    for _ in range(3):
        engine.step()
    traces.stop()
    spans = {span.name: span for span in receiver.spans(4, TRACE_ID)}
    whole, queue, prefill, decode = (spans[name] for name in ("engine primary", "queue", "prefill", "decode"))
    assert whole.parent_id == PARENT
    assert {span.parent_id for span in (queue, prefill, decode)} == {whole.span_id}
    assert whole.start == queue.start <= queue.end == prefill.start < prefill.end == decode.start < decode.end
    assert decode.end == whole.end
    assert whole.service == "slipstream-engine"
    assert (
        whole.attributes.items()
        >= {
            "gen_ai.request.model": "primary",
            "gen_ai.usage.input_tokens": 2,
            "gen_ai.usage.output_tokens": 3,
            "slipstream.request_id": "r1",
            "slipstream.outcome": "length",
        }.items()
    )
    assert not whole.is_error


def test_a_request_that_never_began_has_only_its_wait(receiver: OtlpReceiver):
    engine, _ = counting_engine()
    traces = EngineTraces("primary", {})
    engine.observers.append(traces)
    submission = Submission(GenerationRequest((1,), SamplingParams(timeout=1e-9)), RecordingSink(), timeline())
    engine.submit(submission)
    engine.step()
    traces.refused(timeline(), OverloadedError("full"))
    traces.stop()
    spans = receiver.spans(4, TRACE_ID)
    late, refused = [span for span in spans if span.name == "engine primary"]
    assert [span.name for span in spans if span not in (late, refused)] == ["queue", "queue"]
    assert (late.attributes["error.type"], late.is_error) == ("timeout", True)
    assert (refused.attributes["error.type"], refused.is_error) == ("overloaded", False)


def test_a_collector_that_is_away_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch):
    """The exporter tried again for ten seconds; Triton then killed the model, and the service's end was an error."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    traces = EngineTraces("primary", {})
    traces.refused(timeline(), OverloadedError("full"))
    began = time.monotonic()
    traces.stop()
    assert time.monotonic() - began < LAST_SECONDS + 3


def test_a_trace_context_is_read_from_the_requests_parameters_and_nonsense_is_none():
    assert read_trace(request(text_input="x", parameters={"traceparent": "a", "tracestate": "b", "other": "c"})) == {
        "traceparent": "a",
        "tracestate": "b",
    }
    assert read_trace(request(text_input="x")) == {}
    assert read_trace(request(text_input="x", parameters={"traceparent": 5})) == {}
    broken = request(text_input="x")
    broken.parameters_json = "{"
    assert read_trace(broken) == {}


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"])
@pytest.mark.parametrize("value", ["", "none", "true", "otlp"])
def test_engine_and_proxy_are_turned_on_and_off_by_the_same_variables(variable: str, value: str):
    assert is_asked_for({variable: value}) == tracing.is_asked_for({variable: value})
