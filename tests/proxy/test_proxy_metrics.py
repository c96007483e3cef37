"""The proxy's numbers: right, of few labels, and added up over all its processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from proxy import record
from proxy.backend import ModelDescription, ModelState, Piece, Usage
from proxy.errors import InternalError, OverloadedError, UnavailableError, every_reason, from_kind
from proxy.groups import Groups
from proxy.meter import Meter
from tests.launch.launched import ROOT, free_ports
from tests.proxy.conftest import Serve, Server
from tests.proxy.fakes import DESCRIPTION, FakeBackend, respond, say, stall

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


async def scrape(server: Server) -> Samples:
    return read((await server.http.get("/metrics")).text)


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all samples of this name with these labels."""
    wanted = set(labels.items())
    return sum(value for (sample, has), value in samples.items() if sample == name and wanted <= has)


async def test_answers_are_counted_with_their_tokens_and_times(server: Server, backend: FakeBackend):
    await server.chat()
    backend.script = say("a", "b", "c", pause=0.02)
    await server.chat(stream=True)
    samples = await scrape(server)
    finished = {"operation": "chat", "model": "primary", "outcome": "finished"}
    assert value(samples, "slipstream_proxy_requests_total", **finished) == 2
    assert value(samples, "slipstream_proxy_request_prompt_tokens_sum", model="primary") == 14
    assert value(samples, "slipstream_proxy_request_cached_tokens_sum", model="primary") == 8
    assert value(samples, "slipstream_proxy_request_generated_tokens_sum", model="primary") == 5
    assert value(samples, "slipstream_proxy_open_requests") == 0
    gen_ai = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "primary"}
    assert value(samples, "gen_ai_server_request_duration_seconds_count", **gen_ai, error_type="") == 2
    # what only a stream has
    assert value(samples, "gen_ai_server_time_to_first_token_seconds_count", **gen_ai) == 1
    assert value(samples, "gen_ai_server_time_per_output_token_seconds_sum", **gen_ai) >= 0.02
    assert value(samples, "slipstream_proxy_inter_token_seconds_count", model="primary") == 2
    assert value(samples, "slipstream_proxy_inter_token_seconds_sum", model="primary") >= 0.04
    assert value(samples, "slipstream_proxy_tokens_per_response_sum", model="primary") == 3


async def test_a_gap_counts_for_each_token_that_it_brought(server: Server, backend: FakeBackend):
    async def script(_request: object):
        yield [Piece(0, "a", 1)]
        await asyncio.sleep(0.2)
        yield [Piece(0, "bcde", 4, "stop", Usage(1, 5))]

    backend.script = script
    await server.chat(stream=True)
    samples = await scrape(server)
    assert 0.05 <= value(samples, "slipstream_proxy_inter_token_seconds_sum") < 0.2


async def test_a_long_stream_is_counted_while_it_runs(
    server: Server, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(record, "COUNTING_INTERVAL", 0.05)

    async def script(_request: object):
        yield [Piece(0, "a", 1)]
        await asyncio.sleep(0.06)
        yield [Piece(0, "bc", 2)]
        yield [Piece(0, "d", 1)]
        await asyncio.Event().wait()

    backend.script = script
    async with server.http.stream("POST", "/v1/chat/completions", json=_STREAM) as response:
        async for text in response.aiter_text():
            if '"d"' in text:
                break
        samples = await scrape(server)
        assert value(samples, "slipstream_proxy_tokens_per_response_sum") == 3
        assert value(samples, "slipstream_proxy_inter_token_seconds_count") == 1
    await asyncio.wait_for(backend.closed.wait(), 5)
    await asyncio.sleep(0)
    samples = await scrape(server)
    assert value(samples, "slipstream_proxy_tokens_per_response_sum") == 4
    assert value(samples, "slipstream_proxy_inter_token_seconds_count") == 2


async def test_names_that_no_group_has_never_become_labels(server: Server):
    for number in range(5):
        assert (await server.chat(model=f"made-up-{number}")).status_code == 404
        assert (await server.http.get(f"/made/up/{number}")).status_code == 404
    assert (await server.http.request("BREW", "/metrics")).status_code >= 400
    samples = await scrape(server)
    assert value(samples, "slipstream_proxy_requests_total", model="unknown", outcome="refused") == 5
    assert value(samples, "slipstream_proxy_http_responses_total", route="unknown", status="404") == 5
    assert value(samples, "slipstream_proxy_errors_total", reason="model_not_found", status="404") == 5
    assert not [labels for _, labels in samples for _, text in labels if "made" in text or "BREW" in text]


async def test_refusals_are_told_apart_by_their_reason(serve: Serve, backend: FakeBackend):
    server = await serve(api_keys=("sesame",))
    assert (await server.chat()).status_code == 401
    server.http.headers["authorization"] = "Bearer sesame"
    await server.chat(messages=[])
    for error in (
        OverloadedError("full"),
        UnavailableError("away"),
        from_kind("invalid_request", "long", code="context_length_exceeded", param="messages"),
        from_kind("invalid_request", "odd", code="whatever an engine may say", param=None),
    ):
        backend.script = respond(error)
        await server.chat()
    samples = await scrape(server)
    reasons = ("authentication", "invalid_request", "overloaded", "unavailable", "context_length_exceeded")
    counts = [value(samples, "slipstream_proxy_errors_total", reason=reason) for reason in reasons]
    assert counts == [1, 2, 1, 1, 1]
    assert value(samples, "slipstream_proxy_requests_total", outcome="refused") == 4
    assert value(samples, "slipstream_proxy_requests_total", outcome="failed") == 1
    assert value(samples, "gen_ai_server_request_duration_seconds_count", error_type="overloaded") == 1


async def test_a_stream_that_breaks_counts_as_failed_although_its_status_was_200(server: Server, backend: FakeBackend):
    backend.script = respond([Piece(0, "a", 1)], InternalError("broken"))
    assert (await server.chat(stream=True)).status_code == 200
    samples = await scrape(server)
    assert value(samples, "slipstream_proxy_requests_total", outcome="failed") == 1
    assert value(samples, "slipstream_proxy_errors_total", reason="internal", status="500") == 1


async def test_a_client_that_leaves_counts_as_cancelled(server: Server, backend: FakeBackend):
    backend.script = stall([Piece(0, "a", 1)])
    async with server.http.stream("POST", "/v1/chat/completions", json=_STREAM) as response:
        chunks = response.aiter_raw()  # httpx closes the response with the iterator
        await anext(chunks)
        assert value(await scrape(server), "slipstream_proxy_open_requests") == 1
    await asyncio.wait_for(backend.closed.wait(), 5)
    await asyncio.sleep(0)
    samples = await scrape(server)
    assert value(samples, "slipstream_proxy_requests_total", outcome="cancelled", model="primary") == 1
    assert value(samples, "slipstream_proxy_open_requests") == 0


async def test_a_client_that_leaves_as_soon_as_it_has_everything_has_been_answered(
    server: Server, backend: FakeBackend
):
    """curl closes its connection at [DONE], while we still wait for Triton's last word: it counted as cancelled."""
    backend.script = stall([Piece(0, "a", 1, "stop", Usage(1, 1))])
    async with server.http.stream("POST", "/v1/chat/completions", json=_STREAM) as response:
        async for text in response.aiter_text():
            if "[DONE]" in text:
                break
    await asyncio.wait_for(backend.closed.wait(), 5)
    await asyncio.sleep(0)
    samples = await scrape(server)
    assert value(samples, "slipstream_proxy_requests_total", outcome="finished") == 1
    assert value(samples, "slipstream_proxy_requests_total", outcome="cancelled") == 0


_STREAM = {"model": "primary", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


async def test_a_value_counts_in_the_first_bucket_that_can_hold_it():
    meter = Meter(Groups(FakeBackend()))
    for tokens in (0, 1, 1.5):
        meter.merged_tokens("m").observe(tokens)
    meter.merged_tokens("m").observe_all([2, 256, 257])
    samples = read(meter.page().decode())
    name = "slipstream_proxy_tokens_per_response"
    held = {bound: value(samples, f"{name}_bucket", le=bound) for bound in ("1.0", "2.0", "128.0", "256.0", "+Inf")}
    assert held == {"1.0": 2, "2.0": 4, "128.0": 4, "256.0": 5, "+Inf": 6}
    assert value(samples, f"{name}_sum") == 517.5


async def test_groups_are_shown_with_whether_they_can_answer(server: Server, backend: FakeBackend):
    backend.states = [ModelState("primary", "READY"), ModelState("second", "LOADING")]
    await server.app.ctx.context.groups.refresh()
    samples = await scrape(server)
    assert value(samples, "slipstream_proxy_group_ready", model="primary") == 1
    assert value(samples, "slipstream_proxy_group_ready", model="second") == 0


async def test_metrics_need_a_key_where_everything_does(serve: Serve):
    server = await serve(api_keys=("sesame",))
    assert (await server.http.get("/metrics")).status_code == 401
    assert (await server.http.get("/metrics", headers={"authorization": "Bearer sesame"})).status_code == 200


async def test_every_reason_is_one_word_and_shown_before_it_has_been_told(server: Server):
    reasons = list(every_reason())
    assert len(reasons) == len(set(reasons)) > 15
    assert all(reason.replace("_", "").isalpha() for reason, _ in reasons)
    samples = await scrape(server)
    for reason, status in reasons:
        key = frozenset({"reason": reason, "status": str(status)}.items())
        assert samples["slipstream_proxy_errors_total", key] == 0


@contextmanager
def proxy_of(num_workers: int) -> Iterator[tuple[str, psutil.Process]]:
    """A proxy of several processes, without a Triton; yields its address and their parent."""
    (port,) = free_ports(1)
    environ = {
        **os.environ,
        "TAKEOFF_OPENAI_PORT": str(port),
        "TAKEOFF_PORT": "0",
        "TAKEOFF_TRITON_URL": "127.0.0.1:1",
        "TAKEOFF_PROXY_WORKERS": str(num_workers),
    }
    process = subprocess.Popen([sys.executable, "-m", "proxy"], cwd=ROOT, env=environ)
    try:
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_every_scrape_tells_of_all_processes_also_of_those_that_have_died():
    """Each process counted for itself, and a scrape told of the one that happened to answer."""

    def ask(path: str) -> httpx.Response:
        return httpx.get(url + path, timeout=10)  # a connection of its own each time: any process may get it

    def count() -> float:
        return value(read(ask("/metrics").text), "slipstream_proxy_http_responses_total", route="/version")

    with proxy_of(3) as (url, parent):
        _wait_until_it_answers(url)
        for _ in range(30):
            ask("/version")
        assert {count() for _ in range(10)} == {30}
        parent.children()[0].kill()
        deadline = time.monotonic() + 20
        while value(read(ask("/metrics").text), "slipstream_proxy_worker_restarts_total") < 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert count() == 30


async def test_requests_are_labelled_by_the_group_that_answers_them() -> None:
    class Rivals(FakeBackend):
        async def describe(self, group: str) -> ModelDescription:
            return replace(DESCRIPTION, name=group, aliases=("second", "gpt-4") if group == "primary" else ("gpt-4",))

    groups = Groups(Rivals())
    meter = Meter(groups)
    assert meter.known("gpt-4") == "unknown"
    await groups.refresh()
    for name, label in (("primary", "primary"), ("second", "second"), ("gpt-4", "primary"), ("none", "unknown")):
        assert meter.known(name) == label


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{url}/health", timeout=5)
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
