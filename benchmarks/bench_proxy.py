"""What the proxy costs by itself, beside litellm's proxy and the least that FastAPI can do.

Usage: .venv/bin/python benchmarks/bench_proxy.py [--rounds 3] [--seconds 3]

Each answers at once: ours from a backend that has 64 words ready, litellm from a mock_response of as many chunks, and
FastAPI from its handler. They are asked in turn, over 8 connections that are kept. What a core can do is what was done
over the CPU time of the server's process, so that neither the load generator nor other programs count. Latency is that
of one client alone. Writes benchmarks/results/proxy.json and proxy.png.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from tqdm import tqdm

from benchmarks import machine
from benchmarks.plot_proxy import plot

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PEERS = HERE / "proxy_peers"
PLACES = HERE.parent / ".bench"
AT_ONCE = 8
SERVERS = {
    "Slipstream": [sys.executable, HERE / "instant_proxy.py", "{port}"],
    "FastAPI, bare": [
        *(PLACES / "fastapi" / "bin" / "python", "-m", "uvicorn", "bare_fastapi:app", "--app-dir", PEERS),
        *("--port", "{port}", "--no-access-log", "--log-level", "warning"),
    ],
    "litellm proxy": [
        *(PLACES / "litellm" / "bin" / "python", "-c", "from litellm import run_server; run_server()"),
        *("--config", PEERS / "litellm.yaml", "--host", "127.0.0.1", "--port", "{port}", "--telemetry", "False"),
    ],
}
BODY = {
    "model": "primary",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is inference server?"},
    ],
    "temperature": 0.7,
}


@dataclass
class Server:
    """One of those that are compared; `process` is the one that serves."""

    name: str
    port: int
    process: psutil.Popen

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def start(name: str) -> Server:
    """Start a server and wait until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [str(word).format(port=port) for word in SERVERS[name]]
    environ = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it asks the network otherwise
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no key here, none at the others
        "LITELLM_LOG": "ERROR",
    }
    server = Server(
        name, port, psutil.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )
    deadline = time.monotonic() + 120
    while True:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(BODY).encode(),
            {"content-type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return server
        except (URLError, OSError):
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start") from None
            time.sleep(0.3)


@dataclass
class Client:
    """One connection that is kept. Knows just enough of HTTP/1.1."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, body: bytes) -> tuple[float, float, int]:
        """Seconds to the first byte of the body and to its end, and its events."""
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}"
        )
        started = time.perf_counter()
        self.writer.write(head.encode() + b"\r\n\r\n" + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        assert answer.startswith(b"http/1.1 200"), answer
        if b"content-length:" in answer:
            length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await self.reader.readexactly(length)
            return time.perf_counter() - started, time.perf_counter() - started, 1
        received = await self.reader.read(1 << 16)
        first = time.perf_counter() - started
        while not received.endswith(b"0\r\n\r\n"):
            received += await self.reader.read(1 << 16)
        return first, time.perf_counter() - started, received.count(b"data: {")


async def load(port: int, body: dict[str, Any], seconds: float, at_once: int) -> list[tuple[float, float, int]]:
    """Keep asking over so many connections for so long."""
    content = json.dumps(body).encode()
    until = time.monotonic() + seconds
    asked: list[tuple[float, float, int]] = []

    async def keep_asking() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        client = Client(reader, writer)
        while time.monotonic() < until:
            asked.append(await client.ask(content))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(keep_asking() for _ in range(at_once)))
    return asked


def measure(server: Server, seconds: float) -> dict[str, float]:
    """One round with one server."""

    def on_cpu(body: dict[str, Any]) -> tuple[float, list[tuple[float, float, int]]]:
        before = server.cpu_seconds()
        asked = asyncio.run(load(server.port, body, seconds, AT_ONCE))
        return server.cpu_seconds() - before, asked

    plain, streamed = dict(BODY), {**BODY, "stream": True}
    plain_cpu, requests = on_cpu(plain)
    stream_cpu, streams = on_cpu(streamed)
    alone = asyncio.run(load(server.port, plain, seconds, 1))
    alone_streams = asyncio.run(load(server.port, streamed, seconds, 1))
    return {
        "requests/s per core": len(requests) / plain_cpu,
        "chunks/s per core": sum(events for *_, events in streams) / stream_cpu,
        **_percentiles("request ms", [end for _, end, _ in alone]),
        **_percentiles("first chunk ms", [first for first, *_ in alone_streams]),
    }


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"{name} p{rank}": 1000 * ordered[int(len(ordered) * rank / 100)] for rank in (50, 99)}


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each of the four loads in a round")
    arguments = parser.parse_args()
    subprocess.run([PEERS / "install.sh"], check=True)
    servers = [start(name) for name in SERVERS]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in SERVERS}
    try:
        rounds = [(number, server) for number in range(arguments.rounds + 1) for server in servers]
        for number, server in tqdm(rounds, desc="rounds", unit="round"):
            row = measure(server, arguments.seconds)
            if number:  # the first round warms up
                rows[server.name].append(row)
    finally:
        for server in servers:
            server.process.terminate()
            server.process.wait()
    summary = {name: {key: round(median(row[key] for row in of), 2) for key in of[0]} for name, of in rows.items()}
    print(json.dumps(summary, indent=1))
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), "summary": summary, "rounds": rows}
    (RESULTS / "proxy.json").write_text(json.dumps(kept, indent=1) + "\n")
    plot(summary, RESULTS / "proxy.png")


if __name__ == "__main__":
    main()
