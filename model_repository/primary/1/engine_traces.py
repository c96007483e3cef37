"""Spans of the engine's work, by OpenTelemetry: a request with its queue, prefill and decode. Off unless asked for.

The standard OTEL_* variables ask for it, and only then is anything of OpenTelemetry imported. The engine's thread
hands over a request's timeline when it has ended; spans are made of it on a thread of our own.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from threading import Thread, Timer
from typing import Any

from llm.errors import GenerationError
from llm.observer import Observer, Timeline

log = logging.getLogger(__name__)

LAST_SECONDS = 2.0

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the variables that every OpenTelemetry SDK reads ask for traces."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter := environ.get("OTEL_TRACES_EXPORTER", "").strip():
        return "otlp" in exporter.split(",")
    return any(environ.get(name) for name in _ENDPOINTS)


class EngineTraces(Observer):
    """Makes spans of requests that have ended, as children of what the caller sent along.

    Args:
        model: Triton's name of the model.
    """

    def __init__(self, model: str, environ: Mapping[str, str]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        service = environ.get("OTEL_SERVICE_NAME") or "slipstream-engine"
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("slipstream.engine")
        self._model = model
        self._ended: SimpleQueue[tuple[Timeline, str] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()
        log.info("traces are sent by OTLP over HTTP")

    def request_ended(self, timeline: Timeline) -> None:
        """See `Observer`."""
        self._ended.put((timeline, str(timeline.outcome)))

    def refused(self, timeline: Timeline, error: GenerationError) -> None:
        """A request has been refused before the engine took it in. On any thread."""
        timeline.ended = time.monotonic()
        self._ended.put((timeline, error.code or error.kind))

    def stop(self) -> None:
        """Send what is left, in two seconds or not at all: Triton gives a model ten to end."""
        self._ended.put(None)
        self._thread.join()
        impatience = Timer(LAST_SECONDS, self._exporter.shutdown)
        impatience.start()
        self._provider.shutdown()
        impatience.cancel()

    def _run(self) -> None:
        while (ended := self._ended.get()) is not None:
            try:
                self._trace(*ended)
            except Exception:
                log.exception("a request could not be traced")

    def _trace(self, timeline: Timeline, outcome: str) -> None:
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # What the monotonic clock counts from, so that spans stand beside those of others.
        zero = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            f"engine {self._model}",
            TraceContextTextMapPropagator().extract(timeline.trace),
            SpanKind.SERVER,
            self._attributes(timeline, outcome),
            start_time=zero + _nanoseconds(timeline.arrived),
        )
        inside = set_span_in_context(span)
        for name, start, end in _stations(timeline):
            child = self._tracer.start_span(name, inside, start_time=zero + _nanoseconds(start))
            child.end(zero + _nanoseconds(end))
        if outcome in ("internal", "unavailable", "timeout"):
            span.set_status(StatusCode.ERROR)
        assert timeline.ended is not None
        span.end(zero + _nanoseconds(timeline.ended))

    def _attributes(self, timeline: Timeline, outcome: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "gen_ai.provider.name": "slipstream",
            "gen_ai.request.model": self._model,
            "gen_ai.usage.input_tokens": timeline.num_prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": timeline.num_reused,
            "gen_ai.usage.output_tokens": timeline.num_generated,
            "slipstream.request_id": timeline.request_id,
            "slipstream.outcome": outcome,
        }
        if outcome not in ("stop", "length"):
            attributes["error.type"] = outcome
        return attributes


def _stations(timeline: Timeline) -> Iterator[tuple[str, float, float]]:
    """The parts of a request's time, as far as it came."""
    at = timeline.arrived
    for name, until in (("queue", timeline.scheduled), ("prefill", timeline.first_token), ("decode", timeline.ended)):
        end = until if until is not None else timeline.ended
        assert end is not None
        yield name, at, end
        if until is None:
            return
        at = end


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
