"""What this proxy has counted and timed, in Prometheus' families. docs/metrics.md tells them, a test holds it to this.

Names that OpenTelemetry's GenAI conventions have are those, with the attributes as labels. Every label has few values:
a client's word becomes one only when it names a group that exists. Runs on the event loop; with several processes
each writes to files in PROMETHEUS_MULTIPROC_DIR, and whichever is asked adds them up.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from proxy.errors import ApiError, every_reason
from proxy.groups import Groups

Operation = Literal["chat", "text_completion"]
Outcome = Literal["finished", "refused", "failed", "cancelled"]

UNKNOWN = "unknown"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nobody reads

# The conventions' own, begun later and gone on further where answers take longer.
_REQUEST_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84)
_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
_TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
_TOKENS = tuple(4**power for power in range(9))
_MERGED = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_GEN_AI = ("gen_ai_operation_name", "gen_ai_request_model")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Distribution(Histogram):
    """Finds a value's bucket by bisection, and takes many at once.

    Each chunk of a stream has two: to count one by itself costs more than to encode the chunk.
    """

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:  # noqa: ARG002 (the library's)
        """Count `amount` in its bucket; there are no exemplars."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Count each of them, as `observe` does."""
        self._sum.inc(sum(amounts))
        for bucket, number in Tally(bisect_left(self._upper_bounds, amount) for amount in amounts).items():
            self._buckets[bucket].inc(number)


class Meter:
    """The families of one app, and the groups, whose states are looked up when somebody scrapes."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        registry = self._registry = CollectorRegistry()
        self._is_one_of_several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if not self._is_one_of_several:
            registry.register(self)
            ProcessCollector(registry=registry)
        self.requests = self._counter(
            "slipstream_proxy_requests_total",
            "Requests for answers that have ended, by how",
            ("operation", "model", "outcome"),
        )
        self.errors = self._counter(
            "slipstream_proxy_errors_total",
            "Errors that clients have been told of, on any route",
            ("reason", "status"),
        )
        for reason, status in every_reason():
            self.errors(reason, str(status))  # shown as 0, so that the first one is a growth
        self.open_requests = Gauge(
            "slipstream_proxy_open_requests",
            "Requests for answers that are being received or answered",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.responses = self._counter(
            "slipstream_proxy_http_responses_total",
            "HTTP responses, by the route as it is declared",
            ("method", "route", "status"),
        )
        self.duration = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request's head to the end of its answer",
            (*_GEN_AI, "error_type"),
            _REQUEST_SECONDS,
        )
        self.first_token = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request's head to the first response of a stream",
            _GEN_AI,
            _FIRST_TOKEN_SECONDS,
        )
        self.time_per_token = self._histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of a streamed choice, one value for each request",
            _GEN_AI,
            _TOKEN_SECONDS,
        )
        self.token_gap = self._histogram(
            "slipstream_proxy_inter_token_seconds",
            "Time between two responses of a stream, for each token of a choice in the latter",
            ("model",),
            _TOKEN_SECONDS,
        )
        self.merged_tokens = self._histogram(
            "slipstream_proxy_tokens_per_response",
            "Tokens that reached a stream in one response of Triton",
            ("model",),
            _MERGED,
        )
        self.prompt_tokens = self._histogram(
            "slipstream_proxy_request_prompt_tokens",
            "Tokens of a request's prompts, cached ones included",
            ("model",),
            _TOKENS,
        )
        self.cached_tokens = self._histogram(
            "slipstream_proxy_request_cached_tokens",
            "Tokens of a request's prompts that were in the prefix cache",
            ("model",),
            _TOKENS,
        )
        self.generated_tokens = self._histogram(
            "slipstream_proxy_request_generated_tokens",
            "Tokens of a request's answers",
            ("model",),
            _TOKENS,
        )

    # A family's members are found by the values of its labels, and remembered: the library's own way to them costs more
    # than counting does.
    def _counter(self, name: str, meaning: str, labels: tuple[str, ...]) -> Callable[..., Counter]:
        return cache(Counter(name, meaning, labels, registry=self._registry).labels)

    def _histogram(
        self, name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Callable[..., Distribution]:
        return cache(Distribution(name, meaning, labels, buckets=buckets, registry=self._registry).labels)

    def known(self, model: str) -> str:
        """The name, as a label, of the group that is called so too; one word for all that are none."""
        group = self._groups.find(model)
        return UNKNOWN if group is None else group.name

    def told(self, error: ApiError) -> None:
        """Count an error that a client has been told of."""
        self.errors(error.reason, str(error.status)).inc()

    def responded(self, method: str, route: str, status: int) -> None:
        """Count a response; `route` is empty where there is none."""
        self.responses(method if method in _METHODS else "other", route or UNKNOWN, str(status)).inc()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See `prometheus_client.registry.Collector`."""
        ready = GaugeMetricFamily(
            "slipstream_proxy_group_ready", "Whether the group can answer: 1 or 0", labels=["model"]
        )
        for group in self._groups.all:
            ready.add_metric([group.name], float(group.state == "ready"))
        yield ready

    def page(self) -> bytes:
        """Everything in Prometheus' text format, of all processes."""
        if not self._is_one_of_several:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(self)
        return generate_latest(registry)
