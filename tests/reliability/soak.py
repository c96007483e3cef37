"""Mixed requests without end, a third of them given up half-way, and what each process holds before and after.

Usage: python -m tests.reliability.soak [NUM_REQUESTS [tiny]], which starts a service of its own, of the default model
or of a tiny one that answers many more requests an hour, and prints a JSON report.
"""

import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import READY
from tests.engine.tiny_models import save_model
from tests.launch.launched import Launched, launched

CLIENTS = 16
KINDS = ("tokenize", "refused", "choices", "schema", "tools", "chat", "stream", "left", "left", "left")
# The first of so many equal rounds only warms up: caches fill, pools grow to what the load needs.
_NUM_ROUNDS = 5
_MAX_PATIENCE = 0.4  # seconds
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
# What the engine may not hold when nobody asks; blocks that are only remembered are not held.
_HELD = ("kv_cache_usage_ratio", "sequences_running", "sequences_waiting")
_LET_GO_SECONDS = 10


@dataclass(frozen=True)
class Holdings:
    """What a process holds. `resident` is in bytes."""

    resident: int
    threads: int
    files: int


@dataclass(frozen=True)
class Report:
    """What a soak has seen.

    Attributes:
        outcomes: how many requests of each kind ended with each status; one whose client left has none.
        rounds: each process's holdings after each round.
        segments: of shared memory, after each round.
        held: what the engine held at the end, by the metric's name.
        answers: the same greedy answer after each round.
        seconds: what all rounds took.
    """

    outcomes: dict[str, int]
    rounds: list[dict[str, Holdings]]
    segments: list[int]
    held: dict[str, float]
    answers: list[str]
    seconds: float

    def complaints(self, resident_share: float) -> list[str]:
        """What has failed, has grown by more than it may, or has changed."""
        found = [f"{kind}: {number}" for kind, number in self.outcomes.items() if " 5" in kind]
        if len(set(self.answers)) > 1:
            found.append(f"the greedy answer changed: {self.answers}")
        if self.segments[-1] > self.segments[0]:
            found.append(f"shared-memory segments: {self.segments}")
        found += [f"{name} is {value}" for name, value in self.held.items() if value]
        for name, before in self.rounds[0].items():
            after = self.rounds[-1].get(name)
            if after is None:
                found.append(f"{name} has ended")
                continue
            if after.resident > before.resident * (1 + resident_share):
                found.append(f"{name}: {before.resident} bytes became {after.resident}")
            # a few of either are opened and closed all the time
            if after.threads > before.threads + 4 or after.files > before.files + 8:
                found.append(f"{name}: {before} became {after}")
        return found


def soak(launch: Launched, num_requests: int) -> Report:
    """Send the requests to the service's group `primary`."""
    url, began = f"http://127.0.0.1:{launch.ports['OPENAI_PORT']}", time.monotonic()
    report = Report({}, [], [], {}, [], 0)
    for seed in range(_NUM_ROUNDS):
        asyncio.run(_send(url, num_requests // _NUM_ROUNDS, seed, report.outcomes))
        report.answers.append(_greedy(url))
        report.held.update(_held(f"http://127.0.0.1:{launch.ports['TRITON_METRICS_PORT']}/metrics"))
        report.rounds.append(_holdings(launch))
        report.segments.append(_segments(launch))
    return Report(**{**vars(report), "seconds": time.monotonic() - began})


async def _send(url: str, num_requests: int, seed: int, outcomes: dict[str, int]) -> None:
    rng = random.Random(seed)
    numbers = iter(range(num_requests))

    async def client(http: httpx.AsyncClient) -> None:
        for number in numbers:
            outcome = await _one(http, _request(rng, KINDS[number % len(KINDS)]))
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))


@dataclass(frozen=True)
class _Request:
    """What a client sends, what that is called, and the seconds after which it leaves, unless it waits for the end."""

    kind: str
    path: str
    body: dict[str, Any]
    patience: float | None = None


def _request(rng: random.Random, kind: str) -> _Request:
    words = " ".join(rng.choice(("river", "stone", "cloud", "seven")) for _ in range(rng.randrange(1, 60)))
    common: dict[str, Any] = {"model": "primary", "max_tokens": rng.randrange(1, 24), "seed": rng.randrange(100)}
    chat = {**common, "messages": [{"role": "user", "content": words}]}
    to_chat, to_completions = "/v1/chat/completions", "/v1/completions"
    match kind:
        case "tokenize":
            return _Request(kind, "/tokenize", {"model": "primary", "prompt": words})
        case "refused":
            return _Request(kind, to_completions, {**common, "prompt": words, "max_tokens": 0})
        case "choices":
            return _Request(kind, to_completions, {**common, "prompt": words, "n": 2, "logprobs": 2})
        case "schema":
            shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}}
            return _Request(kind, to_chat, {**chat, "response_format": shape, "stream": rng.random() < 0.5})
        case "tools":
            tool = {"type": "function", "function": {"name": "f", "parameters": _SCHEMA}}
            wanted = {"tools": [tool], "tool_choice": rng.choice(("auto", "required"))}
            return _Request(kind, to_chat, {**chat, **wanted, "stream": rng.random() < 0.5})
        case "left":
            long = {"max_tokens": 300, "ignore_eos": True, "n": rng.randrange(1, 3), "stream": rng.random() < 0.5}
            return _Request(kind, to_chat, {**chat, **long}, patience=rng.random() * _MAX_PATIENCE)
    return _Request(kind, to_chat, {**chat, "stream": kind == "stream"})


async def _one(http: httpx.AsyncClient, request: _Request) -> str:
    """Send a request; return its kind and status."""
    try:
        async with asyncio.timeout(request.patience):
            answer = await http.post(request.path, json=request.body)
    except TimeoutError:
        return request.kind
    return f"{request.kind} {answer.status_code}"


def _held(url: str) -> dict[str, float]:
    """What the engine holds, asked for until it is nothing: the metrics are a second late."""
    deadline = time.monotonic() + _LET_GO_SECONDS
    while True:
        metrics = re.findall(r"^slipstream_engine_(\w+)\{[^}]*\} (\S+)$", httpx.get(url).text, re.MULTILINE)
        held = {name: float(value) for name, value in metrics if name in _HELD}
        assert len(held) == len(_HELD), metrics
        if not any(held.values()) or time.monotonic() > deadline:
            return held
        time.sleep(0.2)


def _greedy(url: str) -> str:
    body = {"model": "primary", "prompt": "The capital of France is", "max_tokens": 24, "temperature": 0}
    return str(httpx.post(f"{url}/v1/completions", json=body, timeout=120).json()["choices"][0]["text"])


def _holdings(launch: Launched) -> dict[str, Holdings]:
    """By process: its number and what it runs."""
    return {f"{pid} {_program(pid)}": _holdings_of(Path("/proc", str(pid))) for pid in launch.processes(".venv")}


def _holdings_of(process: Path) -> Holdings:
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Holdings(resident, len(os.listdir(process / "task")), len(os.listdir(process / "fd")))


def _program(pid: int) -> str:
    words = Path("/proc", str(pid), "cmdline").read_bytes().decode().split("\0")
    return "/".join([*words[0].split("/")[-1:], *(word for word in words if word in ("proxy", "keeper"))])


def _segments(launch: Launched) -> int:
    return sum(name.startswith(f"slipstream-{launch.process.pid}-") for name in os.listdir("/dev/shm"))


def tiny_model(folder: Path) -> Path:
    """Write a model of kilobytes whose context has room for tools."""
    save_model("llama", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return folder


def main(num_requests: int = 100_000, *, is_tiny: bool = False) -> int:
    """Soak a service of its own; return 1 if something grew by more than 5 %."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"TAKEOFF_PAGE_CACHE_SIZE": "500MB"}
        if is_tiny:
            settings |= {"TAKEOFF_MODEL_NAME": str(tiny_model(Path(folder, "model"))), "TAKEOFF_DEVICE": "cpu"}
        with launched(Path(folder), **settings) as launch:
            launch.wait_until_it_says(READY, seconds=300)
            report = soak(launch, num_requests)
    complaints = report.complaints(resident_share=0.05)
    sys.stdout.write(json.dumps({**asdict(report), "complaints": complaints}, indent=1) + "\n")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2]), is_tiny=sys.argv[2:] == ["tiny"]))
