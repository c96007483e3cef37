"""One service with two groups, SmolLM2 and a tiny model, that the tests of this folder hurt from outside."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks import service as benchmarked
from tests.conftest import READY
from tests.engine.tiny_models import save_model
from tests.launch.launched import Launched, launched

# Seconds that a pass or a silence may last. A busy machine must not look hung.
PASS_TIMEOUT = 20
MAX_QUEUE = 32


class Victim:
    """The service, as clients see it and as the machine does."""

    def __init__(self, launch: Launched) -> None:
        self.launch = launch
        self.url = f"http://127.0.0.1:{launch.ports['OPENAI_PORT']}"

    def stub(self, group: str) -> int:
        """The process that runs the group's model."""
        [pid] = self.launch.processes(f"/models/{group}/1/model.py")
        return pid

    def proxy(self) -> tuple[int, list[int]]:
        """The proxy's supervisor, whose parent the launcher is, and its workers."""
        pids = self.launch.processes("-m\0proxy")
        [main] = [pid for pid in pids if _parent(pid) == self.launch.process.pid]
        return main, [pid for pid in pids if pid != main]

    def ask(self, group: str = "primary", timeout: float = 60, **fields: Any) -> httpx.Response:
        """A greedy completion of a few tokens unless told otherwise."""
        body = {"model": group, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0, **fields}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=timeout)

    def stream(self, group: str = "primary", max_tokens: int = 1000) -> tuple[int, list[str]]:
        """A long chat as a stream: its status, and its events until it ends, however it does."""
        messages = [{"role": "user", "content": "Write a very long story."}]
        body = {"model": group, "messages": messages, "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=60) as answer:
            return answer.status_code, [line for line in answer.iter_lines() if line]

    def wait_until_it_serves(self, group: str = "primary", seconds: float = 120) -> float:
        """Ask until answers come; return how long the first took. Nothing but 503 may come before.

        Each is asked on a new connection, so that several in a row come from every proxy worker.
        """
        began, served = time.monotonic(), 0
        first = 0.0
        while served < 8:
            try:
                answer = self.ask(group)
            except httpx.TransportError:
                answer = None  # the proxy itself is away
            if answer is not None and answer.status_code == 200:
                served += 1
                first = first if served > 1 else time.monotonic() - began
                continue
            served = 0
            assert answer is None or answer.status_code == 503, answer.text
            assert answer is None or "retry-after" in answer.headers
            assert time.monotonic() - began < seconds, self.launch.output
            time.sleep(0.2)
        return first


def _parent(pid: int) -> int:
    return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])


def error_of(event: str) -> dict[str, Any]:
    """The error that an event of a stream carries."""
    error: dict[str, Any] = json.loads(event.removeprefix("data: "))["error"]
    return error


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("victim")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"takeoff": {"readers_config": _readers(folder)}}))
    with launched(
        folder,
        TAKEOFF_CONFIG_FILE=str(config),
        TAKEOFF_PASS_TIMEOUT_SECONDS=str(PASS_TIMEOUT),
        TAKEOFF_PROXY_WORKERS="2",
        TAKEOFF_SHUTDOWN_TIMEOUT_SECONDS="60",
    ) as launch:
        launch.wait_until_it_says(READY, seconds=300)
        yield Victim(launch)


def _readers(folder: Path) -> dict[str, dict[str, Any]]:
    common = {"page_cache_size": "300MB", "device": "cpu", "max_queue_size": MAX_QUEUE}
    return {
        "one": {"model_name": str(benchmarked.default_model()), "consumer_group": "primary", **common},
        "two": {"model_name": str(save_model("llama", folder / "tiny")), "consumer_group": "tiny", **common},
    }
