"""Tokens per second through port 3003 beside the engine alone, in one run: the price of Triton, proxy and SSE.

Usage: .venv/bin/python benchmarks/bench_serving.py [--repeats 3] [--streams 1 8 32]

Both are up all the time and asked in turn, so that a noisy machine is noisy for both. Writes the figures and a plot
to benchmarks/results/.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from benchmarks import http_load, machine, workload
from benchmarks.plot_serving import plot
from benchmarks.service import Service, default_model

RESULTS = Path(__file__).resolve().parent / "results"


class EngineAlone:
    """The engine process, with settings such as `quant_type=int8`; `program` names another with the same manners."""

    def __init__(self, model: str, *settings: str, program: str = "engine_alone.py") -> None:
        command = [sys.executable, str(Path(__file__).with_name(program)), model, *settings]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read() == "ready"

    def run(self, bodies: list[dict[str, Any]]) -> dict[str, float]:
        """Answer all bodies at once."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(bodies) + "\n")
        self._process.stdin.flush()
        result: dict[str, float] = json.loads(self._read())
        return result

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


def run_http(
    url: str, bodies: list[dict[str, Any]], count_tokens: Callable[[str], int] | None = None
) -> dict[str, float]:
    """The same bodies through the service; tokens are counted by itself, unless told otherwise."""
    timings = asyncio.run(http_load.run(url, bodies, usage=count_tokens is None))
    if count_tokens is not None:
        for timing in timings:
            timing.num_tokens = count_tokens(timing.text)
    started = min(timing.started for timing in timings)
    gaps = sorted(b - a for t in timings for a, b in zip(t.chunks, t.chunks[1:], strict=False)) or [0.0]
    return {
        "num_tokens": sum(timing.num_tokens for timing in timings),
        "seconds": max(timing.ended for timing in timings) - started,
        # an answer may be the end token and nothing else
        "first_token": median((timing.chunks or [timing.ended])[0] - timing.started for timing in timings),
        "gap_p50": gaps[len(gaps) // 2],
        "gap_p99": gaps[int(len(gaps) * 0.99)],
        "num_chunks": sum(len(timing.chunks) for timing in timings),
    }


def measure(streams: list[int], repeats: int) -> list[dict[str, Any]]:
    """Ask both in turn, each number of streams `repeats` times after one round to warm up."""
    rows = []
    with tempfile.TemporaryDirectory() as run_dir, Service(Path(run_dir)) as service:
        engine = EngineAlone(str(default_model()))
        rounds = [(repeat, count) for repeat in range(repeats + 1) for count in streams]
        for repeat, count in tqdm(rounds, desc="rounds", unit="round"):
            # New prompts each time: neither way shall answer from the prefix cache.
            bodies = [workload.request(1000 * repeat + number) for number in range(count)]
            for way, result in (("engine", engine.run(bodies)), ("port 3003", run_http(service.url, bodies))):
                if repeat:  # the first round warms up
                    rows.append({"streams": count, "way": way, "repeat": repeat, **result})
        engine.close()
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Per number of streams the medians over the repeats, and the ratio of the two ways."""
    table = []
    for count in sorted({row["streams"] for row in rows}):
        line: dict[str, float] = {"streams": count}
        for way in ("engine", "port 3003"):
            mine = [row for row in rows if row["streams"] == count and row["way"] == way]
            line[f"{way} tokens/s"] = round(median(row["num_tokens"] / row["seconds"] for row in mine), 1)
            line[f"{way} first token ms"] = round(1000 * median(row["first_token"] for row in mine))
        mine = [row for row in rows if row["streams"] == count and row["way"] == "port 3003"]
        line["gap p99 ms"] = round(1000 * median(row["gap_p99"] for row in mine))
        line["ratio"] = round(line["port 3003 tokens/s"] / line["engine tokens/s"], 3)
        table.append(line)
    return table


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    arguments = parser.parse_args()
    rows = measure(arguments.streams, arguments.repeats)
    table = summarise(rows)
    for line in table:
        print(line)
    RESULTS.mkdir(exist_ok=True)
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), "summary": table, "rows": rows}
    (RESULTS / "serving.json").write_text(json.dumps(kept, indent=1) + "\n")
    plot(table, RESULTS / "serving.png")


if __name__ == "__main__":
    main()
