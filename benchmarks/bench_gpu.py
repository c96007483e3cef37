"""Tokens per second on one GPU: the engine alone, the whole service, and transformers' continuous batching.

Usage: .venv/bin/python benchmarks/bench_gpu.py [--streams 1 8 32 128 256] [--repeats 3] [--peer-repeats 3] [--tiny]

The model has the shape of Llama 3.2 1B and random weights, which cost what trained ones do. All three get the same
prompts and write as many tokens. At one stream the figure stands beside the roofline: a token needs all weights from
memory once. --tiny runs the same with a model of a few kilobytes on any device, to see that the benchmark works; its
figures mean nothing and are not kept. Writes benchmarks/results/gpu.json and gpu.png.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from benchmarks import machine, random_llama, workload
from benchmarks.bench_serving import RESULTS, EngineAlone, run_http
from benchmarks.plot_gpu import plot
from benchmarks.service import Service

NUM_NEW_TOKENS = 128
_BATCH_SIZE = 256

Run = Callable[[list[dict[str, Any]]], dict[str, float]]


def bodies(first: int, count: int) -> list[dict[str, Any]]:
    """New prompts, so that nobody answers from a prefix cache."""
    requests = (workload.request(first + number) for number in range(count))
    return [{**request, "max_tokens": NUM_NEW_TOKENS, "ignore_eos": True} for request in requests]


def memory_bandwidth() -> float:
    """Bytes per second of a large copy on the GPU, what is read and what is written counted."""
    source = torch.empty(2**30, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    began = perf_counter()
    for _ in range(10):
        target.copy_(source)
    torch.cuda.synchronize()
    return 10 * 2 * source.numel() * source.element_size() / (perf_counter() - began)


def measure(way: str, run: Run, streams: list[int], repeats: int) -> list[dict[str, Any]]:
    """Ask one of the three, each number of streams `repeats` times after one round to warm up."""
    rows = []
    rounds = [(repeat, count) for repeat in range(repeats + 1) for count in streams]
    for repeat, count in tqdm(rounds, desc=way, unit="round"):
        result = run(bodies(10_000 * repeat + 1000 * count, count))
        if repeat:
            rows.append({"way": way, "streams": count, "repeat": repeat, **result})
    return rows


def measure_all(folder: Path, device: str, streams: list[int], repeats: int, peer_repeats: int) -> list[dict[str, Any]]:
    """One after the other: each wants the GPU's memory for itself."""
    rows: list[dict[str, Any]] = []
    settings = {"device": device, "max_batch_size": str(_BATCH_SIZE)}
    if device == "cpu":
        settings["page_cache_size"] = "200MB"
    engine = EngineAlone(str(folder), *(f"{name}={value}" for name, value in settings.items()))
    rows += measure("engine", engine.run, streams, repeats)
    engine.close()
    environ = {f"TAKEOFF_{name.upper()}": value for name, value in settings.items()}
    with (
        tempfile.TemporaryDirectory() as run_dir,
        Service(Path(run_dir), TAKEOFF_MODEL_NAME=str(folder), **environ) as service,
    ):
        rows += measure("port 3003", lambda asked: run_http(service.url, asked), streams, repeats)
    peer = EngineAlone(str(folder), f"device={device}", program="transformers_alone.py")
    rows += measure("transformers", peer.run, streams, peer_repeats)
    peer.close()
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per number of streams the median tokens per second of each way."""
    table = []
    for count in sorted({row["streams"] for row in rows}):
        line: dict[str, Any] = {"streams": count}
        for way in ("engine", "port 3003", "transformers"):
            mine = [row for row in rows if (row["streams"], row["way"]) == (count, way)]
            line[f"{way} tokens/s"] = round(median(row["num_tokens"] / row["seconds"] for row in mine), 1)
        line["port 3003 / engine"] = round(line["port 3003 tokens/s"] / line["engine tokens/s"], 3)
        line["engine / transformers"] = round(line["engine tokens/s"] / line["transformers tokens/s"], 2)
        table.append(line)
    return table


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peer-repeats", type=int, default=3, help="of transformers, which takes 12 s to start a batch"
    )
    parser.add_argument("--tiny", action="store_true", help="only see that the benchmark runs")
    arguments = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not arguments.tiny:
        sys.exit("bench_gpu.py: torch finds no CUDA device here; --tiny shows on any machine that the benchmark runs")
    device = "cuda" if has_gpu else "cpu"
    bandwidth = memory_bandwidth() if has_gpu else 0.0
    with tempfile.TemporaryDirectory() as folder:
        shape = random_llama.TINY if arguments.tiny else random_llama.ONE_BILLION
        weight_bytes = random_llama.save(Path(folder), shape, torch.device(device))
        torch.cuda.empty_cache()
        rows = measure_all(Path(folder), device, arguments.streams, arguments.repeats, arguments.peer_repeats)
    table = summarise(rows)
    if bandwidth and 1 in arguments.streams:
        speed = next(line for line in table if line["streams"] == 1)["engine tokens/s"]
        table[0]["share of the memory's bandwidth"] = round(speed * weight_bytes / bandwidth, 3)
    for line in table:
        print(line)
    if not arguments.tiny:
        kept = {
            "command": " ".join(sys.argv),
            "machine": machine.describe(),
            "GB/s of a copy": round(bandwidth / 1e9),
            "bytes of the weights": weight_bytes,
            "summary": table,
            "rows": rows,
        }
        (RESULTS / "gpu.json").write_text(json.dumps(kept, indent=1) + "\n")
        plot(table, RESULTS / "gpu.png")


if __name__ == "__main__":
    main()
