"""Attention of sequences that add several tokens, over the cache where it lies, in float32 on a CPU. Engine thread.

Queries lie side by side in a tile: tokens of a sequence, with all query heads that share a key head. So scores, weights
and sums of values lie side by side too: no mask is made, and no sum goes across a register. Keys and values are read
where they are, unless they must be widened first. Keys are taken block by block, wherever a chunk begins: what a token
gets does not depend on how its prompt was cut, unless it is a chunk by itself.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray

from llm.attention import HeadRule
from llm.compiled import ParallelLoop, inlined, take
from llm.cpu_cache import ANY, CacheLoops, widened
from llm.intrinsics import address, exp, float_of
from llm.query_tiles import multiply_rows, raise_tops, scale_rows
from llm.tiles import TILE

# Lower than any score, and finite: it can be taken from itself.
_LOWEST = np.float32(-1e30)


class CpuPrefillAttention:
    """A `llm.cache_attention.PrefillAttention`.

    Args:
        rules: what the model's layers ask for, without soft-cap or sinks.
        block_size: tokens in a block of the cache.
        dtype: the cache's, float32 or bfloat16.
    """

    def __init__(self, rules: Iterable[HeadRule], block_size: int, dtype: torch.dtype) -> None:
        self._loops = CacheLoops(_loop, rules, block_size, dtype)

    def __call__(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        blocks: torch.Tensor,
        chunks: torch.Tensor,
        rule: HeadRule,
        out: torch.Tensor,
    ) -> None:
        """See `llm.cache_attention.PrefillAttention`."""
        self._loops.step(len(chunks), query, cache, blocks, chunks, rule, out).run()


@inlined
def _num_tiles(num_tokens: Any, group: Any) -> Any:
    return (num_tokens * group + TILE - 1) // TILE


@inlined
def _hide(scores: Any, num_keys: Any, base: Any, positions: Any, window: Any) -> None:
    """Make the scores of keys from `base` on that the queries at `positions` do not see minus infinity."""
    for key in range(num_keys):
        for lane in range(TILE):
            behind = positions[lane] - np.int32(base + key)
            if behind < 0 or behind >= window:
                scores[np.uint64(key * TILE + lane)] = np.float32(-np.inf)


@inlined
def _weigh(scores: Any, num_keys: Any, tops: Any, sums: Any, kept: Any) -> None:
    """Make weights of scores, which are 0 where a key is not seen; `kept` is what becomes of the weights before."""
    kept[:] = tops
    raise_tops(tops.ctypes.data, scores.ctypes.data, num_keys)
    for lane in range(TILE):
        kept[lane] = exp(kept[lane] - tops[lane])
        sums[lane] *= kept[lane]
    for key in range(num_keys):
        for lane in range(TILE):
            score = scores[np.uint64(key * TILE + lane)]
            weight = exp(score - tops[lane]) * np.float32(score > np.float32(-np.inf))
            scores[np.uint64(key * TILE + lane)] = weight
            sums[lane] += weight


@cache
def _loop(key_dim: int, value_dim: int, block_size: int, itemsize: int) -> ParallelLoop:
    """Compiled for a model's widths: loops of known length are laid out flat. `itemsize` is that of the cache."""
    f32, u64 = np.float32, np.uint64

    def attend(arguments: Any) -> None:
        numbers = carray(arguments, 12)
        num_chunks, heads, kv_heads, table_width = numbers[0], numbers[1], numbers[2], numbers[3]
        seen, scale, query_stride = numbers[4] or ANY, float_of(np.int32(numbers[5])), numbers[6]
        width, group = kv_heads * (key_dim + value_dim), heads // kv_heads
        query = carray(address(numbers[7]), ANY, f32)
        halves = carray(address(numbers[8]), ANY, np.int16)
        tables = carray(address(numbers[9]), ANY, np.int64)
        chunks = carray(address(numbers[10]), (num_chunks, 3), np.int64)
        out = carray(address(numbers[11]), ANY, f32)
        tile, zeros, positions = np.empty(key_dim * TILE, f32), np.zeros(TILE, f32), np.empty(TILE, np.int32)
        scores, sums_of_values = np.empty(block_size * TILE, f32), np.empty(value_dim * TILE, f32)
        wide_keys, wide_values = np.empty(block_size * key_dim, f32), np.empty(block_size * value_dim, f32)
        tops, sums, kept = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
        queries_at, scores_at, values_at = tile.ctypes.data, scores.ctypes.data, sums_of_values.ctypes.data
        num_items: Any = np.int64(0)
        for chunk in range(num_chunks):
            num_items += kv_heads * _num_tiles(chunks[chunk, 2], group)
        # From the last one on: it has the most keys, and a thread that takes one late keeps the others waiting.
        left = num_items - 1 - take(arguments, 0)
        while left >= 0:
            item, chunk = left, 0
            while item >= kv_heads * _num_tiles(chunks[chunk, 2], group):
                item -= kv_heads * _num_tiles(chunks[chunk, 2], group)
                chunk += 1
            place, start, kv_head, first = chunks[chunk, 0], chunks[chunk, 1], item % kv_heads, item // kv_heads * TILE
            num_queries = min(group * chunks[chunk, 2] - first, TILE)  # a token's heads side by side
            for lane in range(TILE):
                row = first + min(lane, num_queries - 1)
                positions[lane] = start + row // group
                at = (place + row // group) * query_stride + (kv_head * group + row % group) * key_dim
                for i in range(key_dim):
                    tile[u64(i * TILE + lane)] = query[u64(at + i)] * scale
            tops[:], sums[:], sums_of_values[:] = _LOWEST, f32(0), f32(0)
            end: Any = np.int64(positions[TILE - 1]) + 1
            begin: Any = max(np.int64(positions[0]) + 1 - seen, 0)
            for block in range(begin // block_size, (end - 1) // block_size + 1):
                base = block * block_size
                num_keys = min(end - base, block_size)
                at = tables[chunk * table_width + block] * block_size * width
                keys_from = at + kv_head * key_dim
                values_from = at + kv_heads * key_dim + kv_head * value_dim
                if itemsize == 4:
                    keys, key_stride = numbers[8] + 4 * keys_from, width
                    values, value_stride = numbers[8] + 4 * values_from, width
                else:
                    for key in range(num_keys):
                        for i in range(key_dim):
                            wide_keys[u64(key * key_dim + i)] = widened(halves[u64(keys_from + key * width + i)])
                        for i in range(value_dim):
                            wide_values[u64(key * value_dim + i)] = widened(halves[u64(values_from + key * width + i)])
                    keys, key_stride = wide_keys.ctypes.data, key_dim
                    values, value_stride = wide_values.ctypes.data, value_dim
                multiply_rows(num_keys, keys, key_stride, 1, queries_at, key_dim, zeros.ctypes.data, 0, scores_at)
                if base + num_keys - 1 > positions[0] or end - 1 - base >= seen:
                    _hide(scores, num_keys, base, positions, min(seen, 1 << 30))
                _weigh(scores, num_keys, tops, sums, kept)
                scale_rows(values_at, value_dim, kept.ctypes.data)
                multiply_rows(value_dim, values, 1, value_stride, scores_at, num_keys, values_at, TILE, values_at)
            for lane in range(num_queries):
                row = first + lane
                at = ((place + row // group) * heads + kv_head * group + row % group) * value_dim
                for i in range(value_dim):
                    out[u64(at + i)] = sums_of_values[u64(i * TILE + lane)] / sums[lane]
            left = num_items - 1 - take(arguments, 0)

    return ParallelLoop(attend)
