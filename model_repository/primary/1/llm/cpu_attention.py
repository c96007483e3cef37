"""Attention of sequences that add one token each, over the cache where it lies, in float32 on a CPU. Engine thread.

torch's wants the keys side by side: copying them there takes as long as attending. This reads each block once, with
the next one on its way from memory. The cache may be of bfloat16, whose numbers are the upper halves of float32's.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray

from llm.attention import HeadRule
from llm.compiled import ParallelLoop, Program, Step, inlined, take
from llm.cpu_cache import ANY, CacheLoops, widened
from llm.intrinsics import address, exp, float_of, num_threads, prefetch, thread_number


class CpuDecodeAttention:
    """A `llm.cache_attention.DecodeAttention`.

    Args:
        rules: what the model's layers ask for, without soft-cap or sinks.
        block_size: tokens in a block of the cache.
        dtype: the cache's, float32 or bfloat16.
    """

    def __init__(self, rules: Iterable[HeadRule], block_size: int, dtype: torch.dtype) -> None:
        self._loops = CacheLoops(_loop, rules, block_size, dtype)

    def __call__(
        self, query: torch.Tensor, cache: torch.Tensor, blocks: torch.Tensor, ends: torch.Tensor, rule: HeadRule
    ) -> torch.Tensor:
        """See `llm.cache_attention.DecodeAttention`."""
        out = query.new_empty(*query.shape[:2], rule.shape.value_dim)
        self._loops.step(len(query), query, cache, blocks, ends, rule, out).run()
        return out

    def steps(
        self, query: torch.Tensor, key_value: torch.Tensor, cache: torch.Tensor, rule: HeadRule, out: torch.Tensor
    ) -> list[Step]:
        """Store keys and values `[rows, width]`, then attend into `out`, for what `set_sequences` says."""
        nowhere = torch.empty(1, 1, dtype=torch.long)
        return [
            Step.of(_store, *key_value.shape, key_value.stride(0), key_value, nowhere, cache, cache.itemsize),
            self._loops.step(len(query), query, cache, nowhere, nowhere, rule, out),
        ]

    def set_sequences(self, program: Program, slots: torch.Tensor, blocks: torch.Tensor, ends: torch.Tensor) -> None:
        """Have a program store in these slots `[rows]`, and attend to these sequences; see `DecodeAttention`."""
        program.set(_store, 4, slots.data_ptr())
        for loop in self._loops.all:
            program.set(loop, 3, blocks.shape[1])
            program.set(loop, 9, blocks.data_ptr())
            program.set(loop, 10, ends.data_ptr())


@inlined
def _number(cache: Any, halves: Any, itemsize: Any, index: Any) -> Any:
    """A number of the cache, which is one of float32 or, by its other view, one of their upper halves."""
    return cache[index] if itemsize == 4 else widened(halves[index])


@inlined
def _upper_half(number: Any) -> Any:
    """The bits of the bfloat16 that is nearest to a float32, of two the even one; both as integers."""
    if number & np.int32(0x7FFFFFFF) > np.int32(0x7F800000):  # NaN, which rounding could make a number
        return np.int32(0x7FC0)
    return (number + np.int32(0x7FFF) + (number >> np.int32(16) & np.int32(1))) >> np.int32(16)


@ParallelLoop
def _store(arguments: Any) -> None:
    numbers = carray(arguments, 7)
    rows, width, stride, itemsize = numbers[0], numbers[1], numbers[2], numbers[6]
    source = carray(address(numbers[3]), rows * stride, np.int32)
    slots = carray(address(numbers[4]), rows, np.int64)
    cache = carray(address(numbers[5]), ANY, np.int32)
    halves = carray(address(numbers[5]), ANY, np.int16)
    for row in range(thread_number(), rows, num_threads()):
        for i in range(width):
            number = source[row * stride + i]
            if itemsize == 4:
                cache[slots[row] * width + i] = number
            else:
                halves[slots[row] * width + i] = np.int16(_upper_half(number))


@cache
def _loop(key_dim: int, value_dim: int, block_size: int, itemsize: int) -> ParallelLoop:
    """Compiled for a model's widths: loops of known length are laid out flat. `itemsize` is that of the cache."""
    f32, u64 = np.float32, np.uint64

    def attend(arguments: Any) -> None:
        numbers = carray(arguments, 12)
        rows, heads, kv_heads, table_width = numbers[0], numbers[1], numbers[2], numbers[3]
        window, scale, query_stride = numbers[4], float_of(np.int32(numbers[5])), numbers[6]
        width = kv_heads * (key_dim + value_dim)
        query = carray(address(numbers[7]), rows * query_stride, f32)
        cache = carray(address(numbers[8]), ANY, f32)
        halves = carray(address(numbers[8]), ANY, np.int16)
        tables = carray(address(numbers[9]), rows * table_width, np.int64)
        ends = carray(address(numbers[10]), rows, np.int64)
        out = carray(address(numbers[11]), rows * heads * value_dim, f32)
        # A row for each thread; fewer rows are shared out by their heads.
        parts = 1 if rows >= num_threads() else kv_heads
        group, part_heads = heads // kv_heads, heads // parts
        scores = np.empty(part_heads * block_size, f32)
        tops = np.empty(part_heads, f32)
        sums = np.empty(part_heads, f32)
        sums_of_values = np.empty(part_heads * value_dim, f32)
        # Whichever thread is free takes the next: rows differ in length, and the threads in what else their cores do.
        item = take(arguments, 0)
        while item < rows * parts:
            row, first_head = item // parts, item % parts * part_heads
            end = ends[row]
            start = max(end - window, 0) if window else 0
            tops[:], sums[:], sums_of_values[:] = f32(-np.inf), f32(0), f32(0)
            last_block = (end - 1) // block_size
            for block in range(start // block_size, last_block + 1):
                base = tables[row * table_width + block] * block_size * width
                following = (
                    numbers[8] + itemsize * tables[row * table_width + min(block + 1, last_block)] * block_size * width
                )
                skipped = max(start - block * block_size, 0)
                used = min(end - block * block_size, block_size)
                for token in range(skipped, used):
                    for line in range(token * width * itemsize // 64, (token + 1) * width * itemsize // 64):
                        prefetch(following + line * 64)
                    for head in range(part_heads):
                        keys = base + token * width + (first_head + head) // group * key_dim
                        queries = row * query_stride + (first_head + head) * key_dim
                        score = f32(0)
                        for i in range(key_dim):
                            score += query[u64(queries + i)] * _number(cache, halves, itemsize, u64(keys + i))
                        scores[u64(head * block_size + token)] = score * scale
                for head in range(part_heads):
                    at = head * block_size
                    top = tops[head]
                    for token in range(skipped, used):
                        top = max(top, scores[u64(at + token)])
                    kept = exp(tops[head] - top)
                    sum_ = sums[head] * kept
                    for token in range(skipped, used):
                        weight = exp(scores[u64(at + token)] - top)
                        scores[u64(at + token)] = weight
                        sum_ += weight
                    tops[head], sums[head] = top, sum_
                    for i in range(value_dim):
                        sums_of_values[u64(head * value_dim + i)] *= kept
                for token in range(skipped, used):
                    for head in range(part_heads):
                        values = base + token * width + kv_heads * key_dim + (first_head + head) // group * value_dim
                        weight = scores[u64(head * block_size + token)]
                        for i in range(value_dim):
                            value = _number(cache, halves, itemsize, u64(values + i))
                            sums_of_values[u64(head * value_dim + i)] += weight * value
            for head in range(part_heads):
                at = (row * heads + first_head + head) * value_dim
                for i in range(value_dim):
                    out[u64(at + i)] = sums_of_values[u64(head * value_dim + i)] / sums[head]
            item = take(arguments, 0)

    return ParallelLoop(attend)
