"""A real Prometheus scrapes the real service after a mixed load; what it kept is right, complete and bounded."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks import mixed_load
from benchmarks.dashboard import panels
from benchmarks.prometheus import FILES, Prometheus
from tests.launch.launched import Launched, free_ports
from tests.monitoring.test_names import samples

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's package prometheus")


@pytest.fixture(scope="module")
def prometheus(service: Launched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Has scraped the service before, during and after a mixed load."""
    targets = {
        "triton": f"127.0.0.1:{service.ports['TRITON_METRICS_PORT']}",
        "proxy": f"127.0.0.1:{service.ports['OPENAI_PORT']}",
    }
    (port,) = free_ports(1)
    with Prometheus(tmp_path_factory.mktemp("prometheus"), port, targets) as prometheus:
        prometheus.await_value('up{job="proxy"} == 1 and on () up{job="triton"} == 1')
        asyncio.run(mixed_load.once(f"http://127.0.0.1:{service.ports['OPENAI_PORT']}"))
        prometheus.await_value('sum(slipstream_engine_requests_total{outcome="cancelled"}) > 0')
        prometheus.await_value('sum(slipstream_proxy_errors_total{reason="not_found"}) > 0')
        time.sleep(2.5)  # the engine's numbers are carried over once a second, and scraped once a second
        yield prometheus


def test_all_endpoints_are_scraped_without_a_fault(prometheus: Prometheus):
    assert {sample["metric"]["job"]: sample["value"][1] for sample in prometheus.query("up")} == {
        "triton": "1",
        "proxy": "1",
    }


def test_everything_that_is_declared_is_there(prometheus: Prometheus):
    found = {sample["metric"]["__name__"] for sample in prometheus.query('{__name__=~"slipstream.*|gen_ai.*"}')}
    # which a single process does not have
    assert found == samples() - {"slipstream_proxy_worker_restarts_total"}


@pytest.mark.parametrize(
    "expression",
    [
        'sum(slipstream_proxy_requests_total{outcome="finished"})',
        'sum(slipstream_proxy_requests_total{outcome="cancelled"})',
        'sum(slipstream_proxy_requests_total{outcome="refused", model="unknown"})',
        'sum(slipstream_proxy_errors_total{reason="model_not_found"})',
        'sum(slipstream_proxy_errors_total{reason="context_length_exceeded"})',
        'sum(slipstream_engine_refusals_total{reason="context_length_exceeded"})',
        'sum(slipstream_engine_requests_total{outcome="length"})',
        "slipstream_engine_prefix_cache_queried_tokens_total",
        "slipstream_engine_generated_tokens_total",
        "slipstream_engine_queue_seconds_count",
        "slipstream_engine_time_to_first_token_seconds_sum",
        "slipstream_engine_time_per_output_token_seconds_sum",
        'slipstream_engine_step_seconds_sum{phase="prefill"}',
        'slipstream_engine_step_seconds_sum{phase="decode"}',
        "sum(gen_ai_server_time_to_first_token_seconds_sum)",
        "slipstream_proxy_inter_token_seconds_sum",
        "slipstream_proxy_tokens_per_response_sum",
        "slipstream_engine_kv_cache_tokens",
        "slipstream_engine_starts_total",
        "slipstream_proxy_group_ready",
    ],
)
def test_the_load_shows(prometheus: Prometheus, expression: str):
    (sample,) = prometheus.query(expression)
    assert float(sample["value"][1]) > 0


def test_the_engine_and_the_proxy_count_the_same_tokens(prometheus: Prometheus, client: object, service: Launched):
    engine = "sum(slipstream_engine_prompt_tokens_total)"
    proxy = "sum(slipstream_proxy_request_prompt_tokens_sum)"
    before = [float(prometheus.query(name)[0]["value"][1]) for name in (engine, proxy)]
    body = {"model": "primary", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    url = f"http://127.0.0.1:{service.ports['OPENAI_PORT']}/v1/chat/completions"
    used = httpx.post(url, json=body, timeout=60).json()["usage"]["prompt_tokens"]
    for name, was in zip((engine, proxy), before, strict=True):
        (sample,) = prometheus.await_value(f"{name} > {was}")
        assert float(sample["value"][1]) == was + used


def test_no_label_has_a_value_that_a_client_chose(prometheus: Prometheus):
    for label in ("model", "gen_ai_request_model", "reason", "route", "outcome", "error_type"):
        series = prometheus.query(f'{{__name__=~"slipstream.*|gen_ai.*", {label}=~".*nobody.*|.*nowhere.*"}}')
        assert series == []
    (count,) = prometheus.query('count({__name__=~"slipstream.*|gen_ai.*"})')
    assert float(count["value"][1]) < 1000


def test_every_query_of_the_dashboard_works(prometheus: Prometheus):
    for panel in panels():
        for query in panel.queries:
            prometheus.query(query.for_prometheus(interval="1m"))
    told = [q for p in panels() for q in p.queries if prometheus.query(q.for_prometheus(interval="1m"))]
    assert len(told) > 40


def test_prometheus_has_nothing_to_say_against_our_names(service: Launched):
    for port in (service.ports["OPENAI_PORT"], service.ports["TRITON_METRICS_PORT"]):
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        check = subprocess.run(
            ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False
        )
        complaints = [line for line in (check.stdout + check.stderr).splitlines() if not line.startswith("nv_")]
        assert complaints == []  # Triton's own names are Triton's business


@pytest.mark.parametrize("words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_the_alert_rules_are_right(words: tuple[str, ...]):
    *what, file = words
    done = subprocess.run(["promtool", *what, str(FILES / file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_right(tmp_path: Path):
    done = subprocess.run(
        ["promtool", "check", "config", str(FILES / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
