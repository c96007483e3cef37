"""The engine's numbers on Triton's metrics port: the only file that makes metrics there. See docs/metrics.md.

A number costs a message to Triton's process (15 us measured), so nothing is told where work is done: the engine's
thread leaves its numbers here, and a thread of our own carries what has changed over once a second.
"""

import logging
import time
from collections import Counter, deque
from threading import Event, Thread
from typing import Any, get_args

import triton_python_backend_utils as pb_utils
from llm.engine import Engine
from llm.errors import ErrorKind, GenerationError
from llm.model_loader import ModelDescription
from llm.observer import Observer, Outcome, Pass, Timeline
from metric_families import FAMILIES
from responder import Responder

log = logging.getLogger(__name__)

CARRY_SECONDS = 1.0

# The only one of the engine's codes that says more than its error's kind.
_CODES = frozenset({"context_length_exceeded"})
# The label sets of what is counted by one; shown as 0 from the start, so that the first one is a growth.
_SPLIT = {
    "slipstream_engine_requests_total": ("outcome", get_args(Outcome)),
    "slipstream_engine_refusals_total": ("reason", (*get_args(ErrorKind), *_CODES)),
    "slipstream_engine_step_seconds": ("phase", ("prefill", "decode")),
}

_Key = tuple[str, tuple[tuple[str, str], ...]]


class EngineMetrics(Observer):
    """Collects on the engine's thread, carries over on one of its own.

    Args:
        model: Triton's name of the model.
    """

    def __init__(self, model: str, description: ModelDescription, engine: Engine, responder: Responder) -> None:
        self._model = model
        self._description = description
        self._engine = engine
        self._responder = responder
        self._families = {name: _family(name) for name in FAMILIES}
        self._metrics: dict[_Key, Any] = {}
        self._carried: dict[_Key, float] = {}
        self._observations: deque[tuple[_Key, float]] = deque()
        self._refusals: deque[str] = deque()
        self._totals: Counter[_Key] = Counter()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Show the model as loaded, and carry numbers over from now on."""
        described = self._description
        for name, family in FAMILIES.items():
            if not family.labels:
                self._metric(_key(name))
        for name, (label, values) in _SPLIT.items():
            for value in values:
                self._metric(_key(name, **{label: value}))
        self._metric(_key("slipstream_engine_starts_total")).increment(1)
        self._set("slipstream_engine_start_time_seconds", time.time())
        self._set("slipstream_engine_max_sequences", described.max_num_sequences)
        self._set(
            "slipstream_engine_info",
            1,
            model_name=described.name,
            device=described.device,
            dtype=described.dtype,
            engine_version=described.engine_version,
        )
        self._thread.start()

    def stop(self) -> None:
        """Carry over what is left. The engine must have stopped."""
        self._stopping.set()
        self._thread.join()

    def refused(self, error: GenerationError) -> None:
        """A request has been refused before the engine took it in. On any thread."""
        self._refusals.append(error.code if error.code in _CODES else error.kind)

    def pass_ended(self, ended: Pass) -> None:
        """See `Observer`."""
        self._totals[_GENERATED] += ended.num_drawn
        self._observations.extend(
            (
                (_DECODE if ended.is_decode else _PREFILL, ended.seconds),
                (_BATCH_SEQUENCES, ended.num_sequences),
                (_BATCH_TOKENS, ended.num_tokens),
            )
        )

    def first_token(self, timeline: Timeline) -> None:
        """See `Observer`."""
        assert timeline.scheduled is not None
        assert timeline.first_token is not None
        self._totals[_PROMPT] += timeline.num_prompt_tokens
        self._totals[_CACHED] += timeline.num_reused
        self._observations.extend(
            (
                (_QUEUE, timeline.scheduled - timeline.arrived),
                (_PREFILL_TIME, timeline.first_token - timeline.scheduled),
                (_FIRST_TOKEN, timeline.first_token - timeline.arrived),
            )
        )

    def request_ended(self, timeline: Timeline) -> None:
        """See `Observer`."""
        assert timeline.ended is not None
        self._totals[_key("slipstream_engine_requests_total", outcome=str(timeline.outcome))] += 1
        self._observations.append((_REQUEST, timeline.ended - timeline.arrived))
        if timeline.first_token is None:
            return
        decoding = timeline.ended - timeline.first_token
        self._observations.append((_DECODE_TIME, decoding))
        num_gaps = timeline.num_generated / timeline.num_choices - 1
        if num_gaps > 0:
            self._observations.append((_PER_TOKEN, decoding / num_gaps))

    def _run(self) -> None:
        while not self._stopping.wait(CARRY_SECONDS):
            self._carry()
        self._carry()

    def _carry(self) -> None:
        try:
            self._carry_observations()
            self._carry_totals()
            self._carry_load()
        except Exception:
            log.exception("the engine's numbers could not be carried over to Triton's metrics")

    def _carry_observations(self) -> None:
        for _ in range(len(self._observations)):
            key, value = self._observations.popleft()
            self._metric(key).observe(value)

    def _carry_totals(self) -> None:
        for _ in range(len(self._refusals)):
            self._metric(_key("slipstream_engine_refusals_total", reason=self._refusals.popleft())).increment(1)
        for key, total in list(self._totals.items()):
            self._count(key, total)
        self._count(_key("slipstream_engine_responses_total"), self._responder.num_responses)

    def _carry_load(self) -> None:
        load = self._engine.load
        self._count(_key("slipstream_engine_preemptions_total"), load.num_preemptions)
        self._count(_key("slipstream_engine_prefix_cache_queried_tokens_total"), load.num_queried_tokens)
        self._count(_key("slipstream_engine_prefix_cache_hit_tokens_total"), load.num_hit_tokens)
        self._count(_key("slipstream_engine_draft_tokens_total"), load.num_drafted_tokens)
        self._count(_key("slipstream_engine_accepted_draft_tokens_total"), load.num_accepted_tokens)
        self._set("slipstream_engine_sequences_running", load.num_running)
        self._set("slipstream_engine_sequences_waiting", load.num_waiting)
        self._set("slipstream_engine_kv_cache_usage_ratio", load.num_used_blocks / load.num_blocks)
        self._set("slipstream_engine_kv_cache_tokens", load.num_blocks * load.block_size)

    def _count(self, key: _Key, total: float) -> None:
        if grown := total - self._carried.get(key, 0):
            self._metric(key).increment(grown)
            self._carried[key] = total

    def _set(self, name: str, value: float, **labels: str) -> None:
        key = _key(name, **labels)
        if self._carried.get(key) != value:
            self._metric(key).set(value)
            self._carried[key] = value

    def _metric(self, key: _Key) -> Any:
        if key not in self._metrics:
            name, labels = key
            buckets = FAMILIES[name].buckets
            options = {"buckets": list(buckets)} if buckets else {}
            self._metrics[key] = self._families[name].Metric(labels={"model": self._model, **dict(labels)}, **options)
        return self._metrics[key]


def _family(name: str) -> Any:
    family = FAMILIES[name]
    kinds = pb_utils.MetricFamily
    kind = {"counter": kinds.COUNTER, "gauge": kinds.GAUGE, "histogram": kinds.HISTOGRAM}[family.kind]
    return pb_utils.MetricFamily(name=name, description=family.description, kind=kind)


def _key(name: str, **labels: str) -> _Key:
    return name, tuple(labels.items())


# What the engine's thread uses, made once.
_GENERATED = _key("slipstream_engine_generated_tokens_total")
_PROMPT = _key("slipstream_engine_prompt_tokens_total")
_CACHED = _key("slipstream_engine_cached_prompt_tokens_total")
_QUEUE = _key("slipstream_engine_queue_seconds")
_PREFILL_TIME = _key("slipstream_engine_prefill_seconds")
_DECODE_TIME = _key("slipstream_engine_decode_seconds")
_FIRST_TOKEN = _key("slipstream_engine_time_to_first_token_seconds")
_PER_TOKEN = _key("slipstream_engine_time_per_output_token_seconds")
_REQUEST = _key("slipstream_engine_request_seconds")
_PREFILL = _key("slipstream_engine_step_seconds", phase="prefill")
_DECODE = _key("slipstream_engine_step_seconds", phase="decode")
_BATCH_SEQUENCES = _key("slipstream_engine_batch_sequences")
_BATCH_TOKENS = _key("slipstream_engine_batch_tokens")
