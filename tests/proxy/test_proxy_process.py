"""`python -m proxy` as a process: how it starts, how it stops, what it does with one worker and with two."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.proxy.fake_triton import USAGE, FakeTriton, piece, response, running

ROOT = Path(__file__).parents[2]
BODY = {"model": "primary", "messages": [{"role": "user", "content": "Hi"}]}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def start(**settings: Any) -> Process:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TAKEOFF_")}
    environ["TAKEOFF_PORT"] = "0"
    environ |= {name: str(value) for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy", env=environ, stdout=PIPE, stderr=PIPE)


@asynccontextmanager
async def proxy(triton: FakeTriton, **settings: Any) -> AsyncIterator[tuple[Process, str]]:
    """Run a proxy of `triton` until its end or the block's, whichever comes first."""
    port = free_port()
    process = await start(
        TAKEOFF_OPENAI_PORT=port, TAKEOFF_TRITON_GRPC_PORT=triton.port, TAKEOFF_HOST="127.0.0.1", **settings
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient() as http, asyncio.timeout(20):
            while True:
                try:
                    if (await http.get(f"{url}/health/ready")).status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.05)
        yield process, url
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), 20)


def gated(gate: asyncio.Event, started: asyncio.Event) -> Any:
    """Say a word, wait for the gate, finish."""

    async def script(inputs: Any, context: Any) -> AsyncIterator[Any]:
        if inputs["stream"]:
            yield response(("Hello", piece(0)))
        started.set()
        await gate.wait()
        text = " world" if inputs["stream"] else "Hello world"
        yield response((text, piece(0, 1, "stop", usage=USAGE)), final=True)

    return script


async def refused(client: httpx.AsyncClient, path: str) -> None:
    """A stopping process says so, to connections from before and to new ones, and closes them."""
    answer = await client.request("GET" if "health" in path else "POST", path, json=BODY)
    assert answer.status_code == 503
    assert "is stopping" in answer.json()["error"]["message"]
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("2", "close")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
async def test_after_sigterm_running_answers_finish_and_nothing_new_begins(workers: int, stream: bool) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    async with (
        running(FakeTriton(gated(gate, started))) as triton,
        proxy(triton, TAKEOFF_PROXY_WORKERS=workers) as (process, url),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        httpx.AsyncClient(base_url=url, timeout=3) as idle,
    ):
        await idle.get("/health")
        answer = asyncio.create_task(http.post("/v1/chat/completions", json={**BODY, "stream": stream}))
        await asyncio.wait_for(started.wait(), 20)
        process.terminate()
        await asyncio.sleep(0.5)
        process.terminate()
        await refused(idle, "/v1/chat/completions")
        async with httpx.AsyncClient(base_url=url, timeout=3) as new:
            await refused(new, "/health/ready")
        assert process.returncode is None
        gate.set()
        text = (await answer).text
        assert "world" in text
        assert not stream or text.endswith("data: [DONE]\n\n")
        began = time.monotonic()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("workers", [1, 2])
async def test_answers_that_do_not_finish_in_time_are_cut_off(workers: int) -> None:
    started = asyncio.Event()
    async with (
        running(FakeTriton(gated(asyncio.Event(), started))) as triton,
        proxy(triton, TAKEOFF_PROXY_WORKERS=workers, TAKEOFF_SHUTDOWN_TIMEOUT_SECONDS=0.5) as (process, url),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        answer = asyncio.create_task(http.post("/v1/chat/completions", json={**BODY, "stream": True}))
        await asyncio.wait_for(started.wait(), 20)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        with pytest.raises(httpx.RemoteProtocolError):
            await answer
        await asyncio.wait_for(triton.cancelled.wait(), 10)


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_idle_process_stops_at_once_and_says_little(workers: int) -> None:
    async with (
        running(FakeTriton()) as triton,
        proxy(triton, TAKEOFF_PROXY_WORKERS=workers) as (process, url),
    ):
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
        began = time.monotonic()
        process.terminate()
        out, err = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0
        assert time.monotonic() - began < 3
        assert out == b""
        lines = err.decode().splitlines()
        assert "the OpenAI API listens on 127.0.0.1" in lines[0]
        assert all(" INFO proxy" in line for line in lines), lines


@pytest.mark.parametrize("workers", [1, 2])
async def test_both_ports_answer_and_stop_in_the_same_way(workers: int) -> None:
    """Sanic stops an app that is not the process's first one without letting its answers finish."""
    gate, started = asyncio.Event(), asyncio.Event()
    port = free_port()
    native = f"http://127.0.0.1:{port}"
    async with (
        running(FakeTriton(gated(gate, started))) as triton,
        proxy(triton, TAKEOFF_PROXY_WORKERS=workers, TAKEOFF_PORT=port) as (process, url),
        httpx.AsyncClient(base_url=native, timeout=10) as http,
        httpx.AsyncClient(base_url=native, timeout=3) as idle,
    ):
        assert (await idle.get("/healthz")).status_code == 200
        assert (await idle.get("/generate")).status_code == 405
        assert (await idle.get(f"{url}/generate")).status_code == 404
        answer = asyncio.create_task(http.post("/generate_stream", json={"text": "Hi"}))
        await asyncio.wait_for(started.wait(), 20)
        process.terminate()
        await asyncio.sleep(0.5)
        await refused(idle, "/generate")
        async with httpx.AsyncClient(base_url=native, timeout=3) as new:
            await refused(new, "/healthz")
        assert process.returncode is None
        gate.set()
        assert (await answer).text == "data:Hello\n\ndata:  world\n\n"
        began = time.monotonic()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert time.monotonic() - began < 3


async def test_answers_of_the_native_port_are_cut_off_in_time_too() -> None:
    started = asyncio.Event()
    port = free_port()
    async with (
        running(FakeTriton(gated(asyncio.Event(), started))) as triton,
        proxy(triton, TAKEOFF_PORT=port, TAKEOFF_SHUTDOWN_TIMEOUT_SECONDS=0.5) as (process, _),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
    ):
        answer = asyncio.create_task(http.post("/generate_stream", json={"text": "Hi"}))
        await asyncio.wait_for(started.wait(), 20)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        with pytest.raises(httpx.RemoteProtocolError):
            await answer
        await asyncio.wait_for(triton.cancelled.wait(), 10)


async def test_a_worker_that_dies_is_replaced() -> None:
    async with (
        running(FakeTriton()) as triton,
        proxy(triton, TAKEOFF_PROXY_WORKERS=2) as (process, url),
    ):
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:  # noqa: ASYNC230
            before = set(file.read().split())
        assert len(before) == 2
        for pid in before:
            os.kill(int(pid), signal.SIGKILL)
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            assert (await http.get("/health")).status_code == 200
        process.terminate()
        _, err = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0, err.decode()
        assert err.decode().count("starting another") == 2


async def test_a_client_that_leaves_is_noticed_on_the_real_event_loop() -> None:
    """The tests' event loop is asyncio's own, the process's is uvloop."""
    started = asyncio.Event()
    async with (
        running(FakeTriton(gated(asyncio.Event(), started))) as triton,
        proxy(triton) as (_, url),
    ):
        async with httpx.AsyncClient(base_url=url) as http:
            message = {"role": "user", "content": "x" * 500_000}
            asking = asyncio.create_task(http.post("/v1/chat/completions", json={**BODY, "messages": [message]}))
            await asyncio.wait_for(started.wait(), 20)
            asking.cancel()
        await asyncio.wait_for(triton.cancelled.wait(), 10)


async def test_without_triton_the_process_lives_and_says_what_is_missing() -> None:
    port = free_port()
    process = await start(TAKEOFF_OPENAI_PORT=port, TAKEOFF_TRITON_URL="127.0.0.1:9")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
        for _ in range(100):
            try:
                assert (await http.get("/health")).status_code == 200
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.1)
        assert (await http.get("/health/ready")).status_code == 503
        answer = await http.post("/v1/chat/completions", json=BODY)
        assert answer.status_code == 503
        assert "127.0.0.1:9 cannot be reached" in answer.json()["error"]["message"]
    process.terminate()
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0


async def test_a_wrong_setting_costs_one_line_and_status_1() -> None:
    process = await start(TAKEOFF_OPENAI_PORT="http")
    out, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 1
    assert (out, err.decode()) == (
        b"",
        "TAKEOFF_OPENAI_PORT='http' cannot be used: set it to a whole number from 1 to 65535\n",
    )


@pytest.mark.parametrize("setting", ["TAKEOFF_OPENAI_PORT", "TAKEOFF_PORT"])
async def test_a_taken_port_costs_one_line_and_status_1(setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await start(**{"TAKEOFF_OPENAI_PORT": free_port(), setting: taken.getsockname()[1]})
        _, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 1
    assert err.decode().count("\n") == 1
    assert f"{setting}=" in err.decode()
    assert "free address" in err.decode()


async def test_clients_that_do_not_read_cost_little_memory() -> None:
    """Eight ask for 200 MB each and read nothing: what waits for them waits in Triton, not here."""
    num_made = 0

    async def flood(inputs: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal num_made
        if inputs.get("task") == "bundle":
            await asyncio.Event().wait()
        for _ in range(50_000):
            num_made += 1
            yield response(("x" * 4096, piece(0)))

    def resident_bytes(process: Process) -> int:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async with running(FakeTriton(flood)) as triton, proxy(triton) as (process, url):
        before = resident_bytes(process)
        writers = []
        for _ in range(8):
            _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port, limit=1)
            body = json.dumps({**BODY, "stream": True}).encode()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
            writer.write(head % len(body) + body)
            writers.append(writer)
        made = -1
        async with asyncio.timeout(60):
            while made != num_made or not num_made:  # until all of it stands still
                made = num_made
                await asyncio.sleep(1)
        assert made < 8 * 50_000
        assert resident_bytes(process) - before < 64 << 20
        for writer in writers:
            writer.close()
