"""How evenly requests are spread over two replicas: by Triton's instances, by its rate limiter, by the proxy.

Usage: .venv/bin/python benchmarks/bench_replicas.py [--repeats 3]

The model is one whose passes wait 50 ms, four sequences at a time, and hardly compute: perfectly spread, two replicas
take half of the seconds of one. Writes the figures to benchmarks/results/replicas.json.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repository"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import render
from google.protobuf import text_format
from manifest import Reader

from benchmarks import machine
from proxy.backend import GenerateRequest, Prompt
from proxy.groups import Groups
from proxy.replicas import Replicas
from proxy.triton_client import TritonBackend
from tests.engine.tiny_models import save_model
from tests.launch.bare_triton import bare_triton

ROOT = Path(__file__).resolve().parents[1]
PASS_SECONDS = 0.05
WAYS = ("one replica", "two instances of a model", "the same, rate limiter", "two models, proxy")
Ask = Callable[[int], Coroutine[None, None, None]]


def make_repository(folder: Path, way: str) -> list[str]:
    """Write the Triton models that this way needs; return their names."""
    settings = {
        "model_name": str(save_model("gpt2", folder / "tiny")),
        "max_batch_size": "4",
        "page_cache_size": "20MB",
    }
    readers = [Reader("group", settings, replica=number) for number in ((1, 2) if way == WAYS[3] else (1,))]
    base = (render.PRIMARY / "config.pbtxt").read_text()
    for reader in readers:
        config = render.model_config(base, reader, "cpu")
        config.instance_group[0].count = 2 if way in WAYS[1:3] else 1
        if way == WAYS[2]:  # without a resource the rate limiter leaves a model alone
            config.instance_group[0].rate_limiter.resources.add(name="place", count=1)
        model = folder / "models" / reader.model
        model.mkdir(parents=True)
        (model / "config.pbtxt").write_text(text_format.MessageToString(config))
        (model / "1").symlink_to(ROOT / "tests" / "waiting_model")
    return [reader.model for reader in readers]


async def burst(ask: Ask) -> None:
    """Eight equal requests at once, for which two replicas have just enough places."""
    await asyncio.gather(*(ask(20) for _ in range(8)))


async def mixture(ask: Ask) -> None:
    """Long and short answers by turns, one request every 150 ms."""
    tasks: list[asyncio.Task[None]] = []
    for number in range(24):
        tasks.append(asyncio.create_task(ask(2 if number % 2 else 60)))
        await asyncio.sleep(0.15)
    await asyncio.gather(*tasks)


async def measure(port: int, repeats: int) -> dict[str, list[float]]:
    """The seconds that each load takes."""
    backend = TritonBackend(f"127.0.0.1:{port}")
    groups = Groups(backend)
    await groups.refresh()
    replicas = Replicas(backend, groups)

    async def ask(num_tokens: int) -> None:
        sampling = {"max_tokens": num_tokens, "ignore_eos": True, "temperature": 0}
        async for _ in replicas.generate("group", GenerateRequest(Prompt(text="Hi"), sampling, stream=True)):
            pass

    seconds: dict[str, list[float]] = {}
    for load, rounds in ((burst, 4 * repeats), (mixture, repeats)):
        for _ in range(rounds):
            started = time.monotonic()
            await load(ask)
            seconds.setdefault(load.__name__, []).append(round(time.monotonic() - started, 2))
    await backend.close()
    return seconds


def main() -> None:
    """Measure every way and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    results: dict[str, Any] = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            models = make_repository(folder, way)
            options = ("--rate-limit=execution_count",) if way == WAYS[2] else ()
            environ = {"PASS_SECONDS": str(PASS_SECONDS)}
            with bare_triton(folder / "models", models, folder / "log", *options, **environ) as triton:
                triton.wait_until_ready(*models)
                results[way] = asyncio.run(measure(triton.grpc_port, repeats))
        for load, seconds in results[way].items():
            print(f"{way:<26} {load:<8} median {median(seconds):5.2f} s, longest {max(seconds):5.2f} s", flush=True)
    path = Path(__file__).resolve().parent / "results" / "replicas.json"
    path.write_text(json.dumps({"machine": machine.describe(), "seconds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
