"""Every metric that the engine shows on Triton's metrics port. docs/metrics.md tells them, and a test holds it to this.

Buckets of whole requests and of times per token are those of OpenTelemetry's GenAI conventions, or finer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 10)
_LONG_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84)
_PER_TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
_POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Family:
    """A metric with all its label sets but for `model`, which each has; nothing that a client writes is a label."""

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


FAMILIES: Mapping[str, Family] = {
    "slipstream_engine_requests_total": Family("counter", "Requests that have ended, by how", ("outcome",)),
    "slipstream_engine_refusals_total": Family("counter", "Requests that were never begun, by why", ("reason",)),
    "slipstream_engine_prompt_tokens_total": Family("counter", "Tokens of prompts, cached ones included"),
    "slipstream_engine_cached_prompt_tokens_total": Family("counter", "Tokens of prompts that were in the cache"),
    "slipstream_engine_generated_tokens_total": Family("counter", "Tokens drawn"),
    "slipstream_engine_responses_total": Family("counter", "Responses with pieces of answers, sent to Triton"),
    "slipstream_engine_prefix_cache_queried_tokens_total": Family(
        "counter", "Tokens looked up in the prefix cache, for each choice of a request"
    ),
    "slipstream_engine_prefix_cache_hit_tokens_total": Family("counter", "Tokens found in the prefix cache"),
    "slipstream_engine_draft_tokens_total": Family("counter", "Tokens of drafts, computed before they were drawn"),
    "slipstream_engine_accepted_draft_tokens_total": Family("counter", "Tokens of drafts that were drawn"),
    "slipstream_engine_preemptions_total": Family("counter", "Sequences that gave up their place to be computed again"),
    "slipstream_engine_starts_total": Family("counter", "Times that the model has been loaded"),
    "slipstream_engine_start_time_seconds": Family("gauge", "Unix time of the last load"),
    "slipstream_engine_info": Family(
        "gauge", "What is loaded; always 1", ("model_name", "device", "dtype", "engine_version")
    ),
    "slipstream_engine_sequences_running": Family("gauge", "Choices of requests that have a place in the batch"),
    "slipstream_engine_sequences_waiting": Family("gauge", "Choices of requests that wait for a place in the batch"),
    "slipstream_engine_max_sequences": Family("gauge", "Places in the batch"),
    "slipstream_engine_kv_cache_usage_ratio": Family("gauge", "Share of the KV cache that running choices hold"),
    "slipstream_engine_kv_cache_tokens": Family("gauge", "Tokens that the KV cache can hold"),
    "slipstream_engine_queue_seconds": Family(
        "histogram", "From arrival to a place in the batch", buckets=_LONG_SECONDS
    ),
    "slipstream_engine_prefill_seconds": Family(
        "histogram", "From the place in the batch to the first token", buckets=_LONG_SECONDS
    ),
    "slipstream_engine_decode_seconds": Family(
        "histogram", "From the first token to the end of the request", buckets=_LONG_SECONDS
    ),
    "slipstream_engine_time_to_first_token_seconds": Family(
        "histogram", "From arrival to the first token", buckets=_LONG_SECONDS
    ),
    "slipstream_engine_time_per_output_token_seconds": Family(
        "histogram", "Mean time between the tokens of a choice, one value for each request", buckets=_PER_TOKEN_SECONDS
    ),
    "slipstream_engine_request_seconds": Family("histogram", "From arrival to the end", buckets=_LONG_SECONDS),
    "slipstream_engine_step_seconds": Family(
        "histogram", "One pass: scheduling, model, sampling, delivery", ("phase",), _SECONDS
    ),
    "slipstream_engine_batch_sequences": Family("histogram", "Sequences that shared a pass", buckets=_POWERS[:11]),
    "slipstream_engine_batch_tokens": Family("histogram", "Tokens that a pass computed", buckets=_POWERS),
}
