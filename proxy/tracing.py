"""Traces by OpenTelemetry: a span for the HTTP request, one for each request to Triton, its context sent along.

Off unless the standard OTEL_* variables ask for it; until then nothing of OpenTelemetry is imported. Attributes are
those of its GenAI and HTTP conventions; what was said is among them only when
OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is true. Runs on the event loop; the SDK sends on its own thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sanic import Request

from proxy.request_id import request_id

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from proxy.record import Record

_log = logging.getLogger(__name__)

LAST_SECONDS = 2.0

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the variables that every OpenTelemetry SDK reads ask for traces."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter := environ.get("OTEL_TRACES_EXPORTER", "").strip():
        return "otlp" in exporter.split(",")
    return any(environ.get(name) for name in _ENDPOINTS)


class Tracing:
    """The tracer of one process, and what sends its spans."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        service = environ.get("OTEL_SERVICE_NAME") or "slipstream-proxy"
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self.tracer: Tracer = self._provider.get_tracer("slipstream.proxy")
        self.tells_content = environ.get(_CONTENT, "").lower() == "true"
        _log.info("traces are sent by OTLP over HTTP")

    @contextmanager
    def serving(self, request: Request, record: Record) -> Iterator[None]:
        """A span around the block, a child of the client's own if it has sent one."""
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(
            {name: request.headers.getone(name, "") for name in ("traceparent", "tracestate")}
        )
        route = request.uri_template or ""
        with self.tracer.start_as_current_span(
            f"{request.method} {route}",
            parent,
            SpanKind.SERVER,
            {"http.request.method": request.method, "http.route": route, "slipstream.request_id": request_id(request)},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                span.set_attribute("http.response.status_code", record.status)
                span.set_attribute("slipstream.outcome", record.outcome)
                if record.error_type:
                    span.set_attribute("error.type", record.error_type)
                if record.outcome == "failed":
                    span.set_status(StatusCode.ERROR)

    async def close(self) -> None:
        """Send what is left, in two seconds or not at all."""
        impatience = asyncio.get_running_loop().call_later(LAST_SECONDS, self._exporter.shutdown)
        await asyncio.to_thread(self._provider.shutdown)
        impatience.cancel()
