"""The engine's numbers, as Triton would show them: right, complete, and with labels that no client chooses."""

from collections.abc import Iterator

import pytest
import triton_python_backend_utils as pb_utils
from engine_metrics import EngineMetrics
from llm.engine import Engine
from llm.errors import ContextLengthError, EngineError, OverloadedError
from llm.model_loader import ModelDescription
from llm.request import GenerationRequest, SamplingParams
from metric_families import FAMILIES
from responder import Responder

from tests.engine.fakes import ByteTokenizer, counting_engine, submit
from tests.model_repository.fakes import RecordingWriter

DESCRIPTION = ModelDescription("m", 64, "cpu", "float32", "0.1.0", "fp_1", 8)


@pytest.fixture(autouse=True)
def shown() -> Iterator[dict[tuple[str, frozenset[tuple[str, str]]], pb_utils.Metric]]:
    pb_utils.MetricFamily.shown.clear()
    yield pb_utils.MetricFamily.shown
    pb_utils.MetricFamily.shown.clear()


def metric(name: str, **labels: str) -> pb_utils.Metric:
    return pb_utils.MetricFamily.shown[f"slipstream_engine_{name}", frozenset({"model": "primary", **labels}.items())]


def observed(engine: Engine) -> tuple[EngineMetrics, Responder]:
    """Metrics of an engine, whose numbers lie still until `stop` carries them over."""
    responder = Responder(engine, ByteTokenizer(), lambda token_id: bytes([token_id % 256]))
    metrics = EngineMetrics("primary", DESCRIPTION, engine, responder)
    engine.observers.append(metrics)
    metrics.start()
    return metrics, responder


def step_until_idle(engine: Engine) -> None:
    engine.step()
    while engine.scheduler.running or engine.scheduler.waiting:
        engine.step()


def test_everything_is_shown_from_the_start_so_that_the_first_event_is_a_growth():
    engine, _ = counting_engine()
    metrics, _ = observed(engine)
    names = {name for name, _ in pb_utils.MetricFamily.shown}
    metrics.stop()
    assert names >= set(FAMILIES) - {name for name, family in FAMILIES.items() if family.kind == "gauge"}
    assert {name for name, _ in pb_utils.MetricFamily.shown} == set(FAMILIES)
    assert metric("requests_total", outcome="cancelled").value == 0
    assert metric("starts_total").value == 1


def test_tokens_passes_and_times_of_requests():
    engine, runner = counting_engine()
    metrics, _ = observed(engine)
    submit(engine, [1] * 8 + [2], max_tokens=5)
    step_until_idle(engine)
    submit(engine, [1] * 8 + [3, 4], max_tokens=5, n=2)
    step_until_idle(engine)
    metrics.stop()
    assert metric("requests_total", outcome="length").value == 2
    assert metric("prompt_tokens_total").value == 19
    assert metric("cached_prompt_tokens_total").value == 8
    assert metric("prefix_cache_queried_tokens_total").value == 29  # each choice looks for itself
    assert metric("prefix_cache_hit_tokens_total").value == 16
    assert metric("generated_tokens_total").value == 15
    passes = [len(chunks) for chunks in runner.passes]
    assert metric("batch_sequences").observations == passes
    assert sum(metric("batch_tokens").observations) == 9 + 4 + 4 + 8  # what was computed: prompts but for the cached
    assert len(metric("step_seconds", phase="prefill").observations) == 2
    assert len(metric("step_seconds", phase="decode").observations) == len(passes) - 2
    for name in ("queue", "prefill", "decode", "time_to_first_token", "time_per_output_token", "request"):
        assert len(metric(f"{name}_seconds").observations) == 2
    queue, prefill, decode = (metric(f"{name}_seconds").observations[0] for name in ("queue", "prefill", "decode"))
    assert metric("request_seconds").observations[0] == pytest.approx(queue + prefill + decode)
    assert metric("time_to_first_token_seconds").observations[0] == pytest.approx(queue + prefill)
    assert metric("time_per_output_token_seconds").observations[0] == pytest.approx(decode / 4)


def test_every_way_to_end_is_counted_once():
    engine, _ = counting_engine(max_batch_size=1)
    metrics, _ = observed(engine)
    cancelled, _ = submit(engine, [1])
    waiting, _ = submit(engine, [2])
    submit(engine, [3], timeout=1e-9)
    engine.step()
    engine.cancel(cancelled)
    engine.cancel(waiting)
    step_until_idle(engine)
    submit(engine, [4])
    engine.stop()
    engine.run()  # which fails what is open
    metrics.stop()
    assert metric("requests_total", outcome="cancelled").value == 2
    assert metric("requests_total", outcome="timeout").value == 1
    assert metric("requests_total", outcome="unavailable").value == 1
    assert len(metric("request_seconds").observations) == 4


def test_a_preemption_shows_and_the_cache_is_empty_in_the_end():
    engine, _ = counting_engine(num_blocks=8, block_size=4, max_model_len=32)
    metrics, _ = observed(engine)
    for base in (10, 20, 30):
        submit(engine, [base] * 6, max_tokens=20)
    step_until_idle(engine)
    metrics.stop()
    assert metric("preemptions_total").value == engine.scheduler.num_preemptions > 0
    assert metric("kv_cache_usage_ratio").value == 0
    assert metric("kv_cache_tokens").value == 32


def test_refusals_are_counted_by_their_reason_and_by_no_word_of_a_client():
    engine, _ = counting_engine()
    metrics, _ = observed(engine)
    for error in (
        ContextLengthError(9, 8),
        OverloadedError("full", code="server_overloaded"),
        EngineError("odd", code="made up"),
    ):
        metrics.refused(error)
    metrics.stop()
    for reason in ("context_length_exceeded", "overloaded", "internal"):
        assert metric("refusals_total", reason=reason).value == 1


def test_responses_are_counted_so_that_merging_shows():
    engine, _ = counting_engine(max_model_len=64)
    metrics, responder = observed(engine)
    writers = [RecordingWriter() for _ in range(2)]
    for writer, is_stream in zip(writers, (True, False), strict=True):
        request = GenerationRequest((65,), SamplingParams(max_tokens=5))
        responder.generate(request, writer, is_stream=is_stream)
    step_until_idle(engine)  # the responder has not begun: all tokens wait in one pile
    responder.start()
    responder.stop()
    metrics.stop()
    assert [len(writer.responses) for writer in writers] == [1, 1]
    assert metric("responses_total").value == 2
    assert metric("generated_tokens_total").value == 10


def test_a_triton_that_takes_no_numbers_harms_nobody():
    """Numbers are not worth an answer."""
    engine, _ = counting_engine()
    metrics, _ = observed(engine)
    metric("prompt_tokens_total").increment = _refuse  # type: ignore[method-assign]
    _, sink = submit(engine, [1], max_tokens=2)
    step_until_idle(engine)
    metrics.stop()
    assert sink.reasons == {0: "length"}


def _refuse(value: float) -> None:
    raise RuntimeError("Triton takes no more")
