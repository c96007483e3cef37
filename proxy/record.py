"""One request for an answer, from its head to its end: when, how much, how it ended. On the event loop.

Handlers open it with `observed`; what becomes of it is counted by `Meter` and stands in one line of the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from types import TracebackType
from typing import Self, cast

from sanic import Request

from proxy.backend import Piece, Usage
from proxy.context import context
from proxy.errors import ApiError, InternalError
from proxy.logs import Line
from proxy.meter import UNKNOWN, Meter, Operation, Outcome
from proxy.request_id import request_id
from proxy.tracing import Tracing

_log = logging.getLogger("proxy.requests")

# A stream's responses are counted so many seconds after one another at most, and at its end.
COUNTING_INTERVAL = 1.0


def observed(request: Request, operation: Operation) -> AbstractContextManager[Record]:
    """Keep the record of `request` within the block, whatever ends it."""
    ctx = context(request)
    record = Record(request, ctx.meter, operation)
    request.ctx.record = record
    return record if ctx.tracing is None else _traced(ctx.tracing, request, record)


@contextmanager
def _traced(tracing: Tracing, request: Request, record: Record) -> Iterator[Record]:
    with tracing.serving(request, record), record:
        yield record


def record_of(request: Request) -> Record:
    """The record that `observed` has opened for `request`."""
    return cast(Record, request.ctx.record)


class Record:
    """What is known of one request so far. A block that is left ends the request, in the way that it is left."""

    def __init__(self, request: Request, meter: Meter, operation: Operation) -> None:
        self.operation = operation
        self.model = ""
        self.is_stream = False
        self.outcome: Outcome = "finished"
        self.is_answered = False  # the last byte of a stream has been written
        self.error: ApiError | None = None
        self.usage: Usage | None = None
        self.seconds = 0.0
        self.first_token_seconds: float | None = None
        self._meter = meter
        self._request = request
        self._started = perf_counter()
        self._last_response = 0.0
        self._gaps: list[float] = []  # seconds for each token, of the responses that have not been counted yet
        self._merged: list[int] = []  # tokens in each of them
        self._last_count = self._started
        self._num_choices = 1
        meter.open_requests.inc()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self.fail(error)
        elif isinstance(error, asyncio.CancelledError) and not self.is_answered:
            self.outcome = "cancelled"  # clients may leave as soon as they have everything
        self.end()

    def ask(self, model: str, *, stream: bool) -> None:
        """The request has been read: which group it asks, and how."""
        self.model = model
        self.is_stream = stream

    def note(self, pieces: Sequence[Piece]) -> None:
        """A response has come from the model."""
        now = perf_counter()
        last = pieces[-1]
        self.usage = last.usage
        if not self.is_stream:
            return
        most = total = last.num_tokens
        if last.index >= self._num_choices:
            self._num_choices = last.index + 1
        if len(pieces) > 1:
            most = max(piece.num_tokens for piece in pieces)
            total = sum(piece.num_tokens for piece in pieces)
        if self.first_token_seconds is None:
            self._begin_stream(now - self._started)
        elif most:
            self._gaps.append((now - self._last_response) / most)
        self._merged.append(total)
        self._last_response = now
        if now - self._last_count >= COUNTING_INTERVAL:
            self._count_responses(self._meter.known(self.model))

    def fail(self, error: Exception) -> None:
        """The request ends with an error."""
        self.error = error if isinstance(error, ApiError) else InternalError("")
        self.outcome = "refused" if self.error.status < 500 else "failed"

    def end(self) -> None:
        """The request has ended."""
        self.seconds = perf_counter() - self._started
        meter, label = self._meter, self._meter.known(self.model)
        meter.open_requests.dec()
        meter.requests(self.operation, label, self.outcome).inc()
        meter.duration(self.operation, label, self.error_type).observe(self.seconds)
        if self._merged:
            self._count_responses(label)
        if self.usage is not None:
            self._count_tokens(self.usage, label)
        self._log(label)

    @property
    def status(self) -> int:
        """The response's status, or that of the error which ended it after a 200."""
        return 200 if self.error is None else self.error.status

    @property
    def error_type(self) -> str:
        """In one word why there is no whole answer; empty when there is."""
        if self.error is not None:
            return self.error.reason
        return "cancelled" if self.outcome == "cancelled" else ""

    def _log(self, label: str) -> None:
        """Of what was asked for, only names that an operator gave: anything may stand in an unknown one."""
        if not _log.isEnabledFor(logging.INFO):
            return
        usage, first = self.usage, self.first_token_seconds
        _log.info(
            Line(
                "request",
                request_id=request_id(self._request),
                operation=self.operation,
                group=label if self.model else None,
                alias=self.model if self.model and label not in (self.model, UNKNOWN) else None,
                owner=getattr(self._request.ctx, "owner", None),
                stream=self.is_stream,
                outcome=self.outcome,
                error=None if self.error is None else self.error.reason,
                status=self.status,
                prompt_tokens=usage and usage.prompt_tokens,
                cached_tokens=usage and usage.cached_tokens,
                generated_tokens=usage and usage.completion_tokens,
                first_token_ms=None if first is None else round(1000 * first),
                total_ms=round(1000 * self.seconds),
            )
        )

    def _begin_stream(self, seconds: float) -> None:
        self._meter.first_token(self.operation, self._meter.known(self.model)).observe(seconds)
        self.first_token_seconds = seconds

    def _count_responses(self, label: str) -> None:
        self._meter.token_gap(label).observe_all(self._gaps)
        self._meter.merged_tokens(label).observe_all(self._merged)
        self._gaps.clear()
        self._merged.clear()
        self._last_count = self._last_response

    def _count_tokens(self, usage: Usage, label: str) -> None:
        self._meter.prompt_tokens(label).observe(usage.prompt_tokens)
        self._meter.cached_tokens(label).observe(usage.cached_tokens)
        self._meter.generated_tokens(label).observe(usage.completion_tokens)
        num_gaps = usage.completion_tokens / self._num_choices - 1
        if self.first_token_seconds is not None and num_gaps > 0:
            streaming = self._last_response - self._started - self.first_token_seconds
            self._meter.time_per_token(self.operation, label).observe(streaming / num_gaps)
