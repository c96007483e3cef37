"""How fast chunks of prompts attend to what is cached: `.venv/bin/python benchmarks/bench_attention.py`.

One layer of SmolLM2-135M: 9 query heads on 3 key heads of 64 numbers. By the engine's compiled loop, in the cache; by
torch with keys and values side by side: with a mask, as the engine does it elsewhere, without one, which leaves the
chunk's own tokens to be computed apart, and written out. First on one thread, in GFLOP/s; then chunks of a pass as the
engine has them, on all threads, the compiled loop and torch by turns. Writes benchmarks/results/attention.json.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repository" / "primary" / "1"))

import torch
from llm.attention import HeadRule
from llm.cache_attention import TORCH_ALONE, find_cache_attention
from llm.cpu_prefill_attention import CpuPrefillAttention
from llm.kv_cache import BLOCK_SIZE, KVCache, LayerShape
from llm.paged_batch import Extent, PagedBatch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import machine
from benchmarks.bench_serving import RESULTS

SHAPES = ((32, 3500), (128, 3500), (512, 3500), (128, 1000))
KV_HEADS, SHARING, DIM = 3, 3, 64
# Sequences, tokens of each, and tokens of each that are cached.
PASSES = tuple((*chunks, cached) for cached in (0, 512) for chunks in ((1, 22), (1, 128), (1, 1000), (4, 22), (4, 128)))
REPEATS, TURNS = 5, 15


def gigaflops(num_operations: int, call: Callable[[], object]) -> float:
    """The best of some runs after one to warm up."""
    best = float("inf")
    for _ in range(REPEATS + 1):
        started = perf_counter()
        call()
        best = min(best, perf_counter() - started)
    return round(num_operations / best / 1e9, 1)


@torch.inference_mode()
def measure(queries: int, cached: int) -> dict[str, float]:
    """GFLOP/s of each way."""
    width = KV_HEADS * DIM
    stored = torch.randn(1, cached, 2 * width)  # keys and values side by side, as they lie in the cache
    key, value = (half.view(1, cached, KV_HEADS, DIM).transpose(1, 2) for half in stored.chunk(2, dim=-1))
    query = torch.randn(1, KV_HEADS, SHARING * queries, DIM)
    mask = torch.zeros(1, 1, SHARING * queries, cached)

    def written_out() -> torch.Tensor:
        scores = (query @ key.transpose(-1, -2)).mul_(DIM**-0.5).add_(mask)
        result: torch.Tensor = scores.softmax(dim=-1) @ value
        return result

    rule = HeadRule(LayerShape(KV_HEADS, DIM, DIM), None, None, None, None)
    attend = CpuPrefillAttention([rule], BLOCK_SIZE, torch.float32)
    num_blocks = -(-(cached + queries) // BLOCK_SIZE)
    paged, blocks = torch.randn(num_blocks, BLOCK_SIZE, rule.shape.width), torch.randperm(num_blocks)[None]
    rows, chunk = torch.randn(queries, KV_HEADS * SHARING, DIM), torch.tensor([[0, cached, queries]])
    # Its tokens attend to each other, too, which is not counted.
    compiled = partial(attend, rows, paged, blocks, chunk, rule, torch.empty_like(rows))
    operations = 4 * KV_HEADS * SHARING * queries * cached * DIM
    return {
        "compiled": gigaflops(operations, compiled),
        "with a mask": gigaflops(operations, lambda: scaled_dot_product_attention(query, key, value, attn_mask=mask)),
        "without": gigaflops(operations, lambda: scaled_dot_product_attention(query, key, value)),
        "written out": gigaflops(operations, written_out),
    }


@torch.inference_mode()
def measure_pass(sequences: int, tokens: int, cached: int) -> dict[str, float]:
    """Milliseconds of each way, medians."""
    rule = HeadRule(LayerShape(KV_HEADS, DIM, DIM), None, None, None, None)
    each = -(-(cached + tokens) // BLOCK_SIZE)
    cache = KVCache({0: rule.shape}, sequences * each, dtype=torch.float32, device=torch.device("cpu"))
    extents = [Extent(cached, tokens, range(number * each, (number + 1) * each)) for number in range(sequences)]
    query = torch.randn(sequences * tokens, KV_HEADS * SHARING, DIM)
    key_value = torch.randn(sequences * tokens, rule.shape.width)
    ways = {"compiled": find_cache_attention([rule], cache, torch.float32), "torch": TORCH_ALONE}
    batches = {name: PagedBatch(cache, extents, cache.device, way) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for turn in range(TURNS + 1):
        for name, batch in batches.items():
            started = perf_counter()
            batch.attend(0, query, key_value, rule)
            if turn:  # the first warms up
                seconds[name].append(perf_counter() - started)
    line = {name: round(1000 * median(of), 3) for name, of in seconds.items()}
    return {**line, "ratio": round(median(seconds["torch"]) / median(seconds["compiled"]), 2)}


def main() -> None:
    """Measure, print, and keep the results."""
    passes = {
        f"{number} x {tokens} behind {cached}": measure_pass(number, tokens, cached)
        for number, tokens, cached in PASSES
    }
    torch.set_num_threads(1)
    table = {f"{queries} x {cached}": measure(queries, cached) for queries, cached in SHAPES}
    for shape, line in (table | passes).items():
        print(shape, line)
    kept = {"machine": machine.describe(), "GFLOP/s of one thread": table, "ms of a pass, all threads": passes}
    (RESULTS / "attention.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
