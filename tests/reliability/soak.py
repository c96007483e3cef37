"""Mixed requests without end, a quarter of them given up half-way, and what each process holds before and after.

Usage: python -m tests.reliability.soak [NUM_REQUESTS], which starts a service of its own and prints a JSON report.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import READY
from tests.launch.launched import Launched, launched

CLIENTS = 16
# Of all requests, so many come first, unmeasured: caches fill, pools grow to what the load needs.
WARM_UP_SHARE = 0.25
_LEAVES_AFTER = 0.3  # seconds


@dataclass(frozen=True)
class Holdings:
    """What a process holds. `resident` is in bytes."""

    resident: int
    threads: int
    files: int


@dataclass(frozen=True)
class Report:
    """What a soak has seen: statuses, each process's holdings after warm-up and at the end, greedy answers likewise."""

    statuses: dict[str, int]
    before: dict[str, Holdings]
    after: dict[str, Holdings]
    segments: tuple[int, int]
    answers: tuple[str, str]

    def complaints(self, resident_share: float) -> list[str]:
        """What has grown by more than it may, or changed."""
        found = [] if self.answers[0] == self.answers[1] else [f"the greedy answer changed: {self.answers}"]
        if self.segments[1] > self.segments[0]:
            found.append(f"shared-memory segments: {self.segments}")
        for name, before in self.before.items():
            after = self.after.get(name)
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
    """Send the requests to the service's first group."""
    url = f"http://127.0.0.1:{launch.ports['OPENAI_PORT']}"
    asyncio.run(_send(url, int(num_requests * WARM_UP_SHARE), seed=1))
    first = _greedy(url)
    before, segments = _holdings(launch), _segments(launch)
    statuses = asyncio.run(_send(url, num_requests, seed=2))
    last = _greedy(url)
    return Report(statuses, before, _holdings(launch), (segments, _segments(launch)), (first, last))


async def _send(url: str, num_requests: int, seed: int) -> dict[str, int]:
    rng, statuses = random.Random(seed), dict[str, int]()
    numbers = iter(range(num_requests))

    async def client(http: httpx.AsyncClient) -> None:
        for _ in numbers:
            status = await _one(http, *_request(rng))
            statuses[status] = statuses.get(status, 0) + 1

    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return statuses


def _request(rng: random.Random) -> tuple[str, dict[str, Any], bool]:
    """A path, a body, and whether the client leaves before the end."""
    words = " ".join(rng.choice(("river", "stone", "cloud", "seven")) for _ in range(rng.randrange(1, 60)))
    common: dict[str, Any] = {"model": "primary", "max_tokens": rng.randrange(1, 24), "seed": rng.randrange(100)}
    match rng.randrange(6):
        case 0:
            return "/tokenize", {"model": "primary", "prompt": words}, False
        case 1:
            return "/v1/completions", {**common, "prompt": words, "max_tokens": 0}, False  # refused
        case 2:
            return "/v1/completions", {**common, "prompt": words, "n": 2, "logprobs": 2}, False
        case 3:
            schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
            shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
            return "/v1/chat/completions", {**common, **_chat(words), "response_format": shape}, False
    return "/v1/chat/completions", {**common, **_chat(words), "stream": True}, rng.random() < 0.5


def _chat(words: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}]}


async def _one(http: httpx.AsyncClient, path: str, body: dict[str, Any], is_leaving: bool) -> str:
    """Send a request; return its status, or `left`."""
    try:
        async with asyncio.timeout(_LEAVES_AFTER if is_leaving else None):
            return str((await http.post(path, json=body)).status_code)
    except TimeoutError:
        return "left"


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


def main(num_requests: int) -> int:
    """Soak a service of its own; return 1 if something grew by more than 5 %."""
    with tempfile.TemporaryDirectory() as folder, launched(Path(folder), TAKEOFF_PAGE_CACHE_SIZE="500MB") as launch:
        launch.wait_until_it_says(READY, seconds=300)
        report = soak(launch, num_requests)
    complaints = report.complaints(resident_share=0.05)
    sys.stdout.write(json.dumps({**asdict(report), "complaints": complaints}, indent=1) + "\n")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
