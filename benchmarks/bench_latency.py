"""Waiting times through port 3003: first token, first token after a cached prefix, and the gap a long prompt causes.

Usage: .venv/bin/python benchmarks/bench_latency.py [--repeats 5]

The engine alone answers the same prompts in turn, so that what the service adds can be told from the prefill.
Writes benchmarks/results/latency.json.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from benchmarks import http_load, machine, workload
from benchmarks.bench_serving import RESULTS, EngineAlone
from benchmarks.service import Service, default_model

PREFIX_WORDS = 970  # about 1,000 tokens with the chat template
LONG_WORDS = 3950  # about 4,000


def prompt_of(num_words: int, number: int) -> str:
    """A prompt of common words, one token each, that no other number shares a beginning with."""
    words = ("river", "stone", "cloud", "garden", "winter", "music", "paper", "engine")
    return f"Story {number}: " + " ".join(words[(number + i * i) % len(words)] for i in range(num_words))


def body(text: str, max_tokens: int) -> dict[str, Any]:
    """A greedy chat completion of one message."""
    messages = [{"role": "user", "content": text}]
    return {"model": "primary", "messages": messages, "temperature": 0.0, "max_tokens": max_tokens, "seed": 1}


def first_token(url: str, asked: dict[str, Any]) -> float:
    """Milliseconds to the first text of one request, or to its end when the model has nothing to say."""
    (timing,) = asyncio.run(http_load.run(url, [asked]))
    return _waited(timing)


def _waited(timing: http_load.Timing) -> float:
    return 1000 * ((timing.chunks or [timing.ended])[0] - timing.started)


async def _gaps_beside(url: str, number: int) -> tuple[list[float], list[float], int]:
    """Milliseconds between the chunks of a running stream, before and while a long prompt is computed."""
    endless = {**body(f"Write a long story, number {number}.", 500), "ignore_eos": True}
    running = asyncio.create_task(http_load.run(url, [endless]))
    await asyncio.sleep(3)
    (long,) = await http_load.run(url, [body(prompt_of(LONG_WORDS, number), 2)])
    (stream,) = await running
    before, beside = [], []
    for a, b in zip(stream.chunks, stream.chunks[1:], strict=False):
        if b <= long.started:
            before.append(1000 * (b - a))
        elif a < long.started + _waited(long) / 1000:
            beside.append(1000 * (b - a))
    return before, beside, int(_waited(long))


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    short: dict[str, list[float]] = {"port 3003": [], "engine": []}
    prefix: dict[str, list[float]] = {"cold": [], "cached": []}
    before: list[float] = []
    beside: list[float] = []
    long: list[int] = []
    with (
        tempfile.TemporaryDirectory() as run_dir,
        Service(Path(run_dir), TAKEOFF_MAX_SEQUENCE_LENGTH="8192") as service,
    ):
        engine = EngineAlone(str(default_model()))
        for repeat in tqdm(range(repeats + 1), desc="rounds", unit="round"):
            asked = {**workload.request(5000 + repeat), "max_tokens": 2}
            engine_ms, service_ms = 1000 * engine.run([asked])["first_token"], first_token(service.url, asked)
            text = prompt_of(PREFIX_WORDS, repeat)
            cold, cached = (first_token(service.url, body(f"{text} {end}", 2)) for end in ("One?", "Two, then?"))
            gaps = asyncio.run(_gaps_beside(service.url, repeat))
            if repeat:  # the first round warms up
                short["engine"].append(engine_ms)
                short["port 3003"].append(service_ms)
                prefix["cold"].append(cold)
                prefix["cached"].append(cached)
                before += gaps[0]
                beside += gaps[1]
                long.append(gaps[2])
        engine.close()
    result = {
        "first token of a 52-token prompt, ms": {name: round(median(of), 1) for name, of in short.items()},
        "first token after a 1,000-token prefix, ms": {name: round(median(of), 1) for name, of in prefix.items()},
        "gap between chunks of a running stream, ms": {
            "alone": _spread(before),
            "while a 4,000-token prompt is computed": _spread(beside),
            "that prompt's first token": median(long),
        },
    }
    print(json.dumps(result, indent=1))
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), **result}
    (RESULTS / "latency.json").write_text(json.dumps(kept, indent=1) + "\n")


def _spread(gaps: list[float]) -> dict[str, float]:
    ordered = sorted(gaps)
    at = {"p50": 0.5, "p99": 0.99}
    return {
        **{name: round(ordered[int(share * len(ordered))], 1) for name, share in at.items()},
        "max": round(ordered[-1], 1),
    }


if __name__ == "__main__":
    main()
