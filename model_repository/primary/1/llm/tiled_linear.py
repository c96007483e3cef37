"""Linear layers in float32 on a CPU, in tiles; see `llm.tiles`. Engine thread.

Most models were trained in bfloat16, whose numbers are float32's with 16 bits of zeros behind them. Such a weight is
kept without the zeros, and multiplied with them: half as much comes from memory for the same products.
"""

from functools import cache, partial
from typing import Any

import torch
from llvmlite import ir
from numba import carray, types

from llm.compiled import ParallelLoop, Scratch, Step, inlined
from llm.intrinsics import emit_prefetch, intrinsic, num_threads
from llm.tiles import LANES, ROWS, TILE, TileCode, Tiled, by_rows, take_tile, tiled, tiled_bfloat16

# Inputs at a time, so that their part of a tile stays in a core's second-level cache while all rows go over it.
_INPUTS = 2048

# With fewer rows, memory is busy without being asked in advance.
_PREFETCHING_ROWS = 24
_NEVER = 62


class TiledLinear(Tiled):
    """A `llm.linear.Linear`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        is_bfloat16 = torch.equal(weight, weight.bfloat16())
        super().__init__(tiled_bfloat16(weight) if is_bfloat16 else tiled(weight, 1), len(weight), bias)
        self._has_bias = bias is not None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """See `llm.linear.Linear`."""
        out = rows.new_empty(len(rows), self.width)
        self._step(rows.contiguous(), out, adds=False).run()
        return self._outputs(out)

    def add_to(self, sums: torch.Tensor, rows: torch.Tensor) -> None:
        """See `llm.linear.JoinedLinear.add_to`."""
        if self._has_bias or not self.is_whole:
            sums += self(rows)
        else:
            self._step(rows.contiguous(), sums, adds=True).run()

    def steps(self, rows: torch.Tensor, out: torch.Tensor, _scratch: Scratch, *, adds: bool = False) -> list[Step]:
        """Multiply `rows` `[rows, inputs]` into `out` `[rows, width]`; with `adds`, add to it, without the bias."""
        return [self._step(rows, out, adds)]

    def _step(self, rows: torch.Tensor, out: torch.Tensor, adds: bool) -> Step:
        sizes = *rows.shape, len(self._tiles), adds, self._tiles.element_size()
        return Step.of(_loop(), *sizes, rows, self._tiles, self._bias, out)


def _product(num_rows: int, weight_bytes: int) -> Any:
    """Compiled code that multiplies so many rows by a part of a tile, with a weight of 2 or 4 bytes."""
    number, word = ir.FloatType(), ir.IntType(32)
    words = TILE * weight_bytes // 4  # of an input in a tile

    @intrinsic
    def product(
        _typing: Any,
        _source: Any,
        _source_stride: Any,
        _part: Any,
        _count: Any,
        _sums: Any,
        _sums_stride: Any,
        _out: Any,
        _out_stride: Any,
        _following: Any,
        _rarity: Any,
    ) -> Any:
        """Add `count` inputs of rows at `source` times those of the tile at `part` to `sums`, and store them at `out`.

        Addresses are bytes, strides from row to row numbers. Of the tile at `following`, an input is prefetched at each
        `2 ** rarity`-th.
        """

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            source, source_stride, part, count, sums, sums_stride, out, out_stride, following, rarity = arguments
            code, integer = TileCode(builder, number), source.type
            mask = builder.sub(builder.shl(integer(1), rarity), integer(1))

            def weights(index: Any) -> list[Any]:
                with builder.if_then(builder.icmp_unsigned("==", builder.and_(index, mask), integer(0))):
                    ahead = builder.mul(builder.lshr(index, rarity), integer(words))
                    for line in range(0, words, 16):
                        emit_prefetch(builder, code.place(following, builder.add(ahead, integer(line)), number))
                first = builder.mul(index, integer(words))
                if weight_bytes == 4:
                    return code.load(part, first)
                pairs = ir.VectorType(word, LANES)
                both = builder.load(code.place(part, first, pairs), align=4)
                lower = builder.shl(both, pairs([16] * LANES))
                upper = builder.and_(both, pairs([0xFFFF0000] * LANES))
                return [builder.bitcast(half, code.vector) for half in (lower, upper)]

            def value(row: int, index: Any) -> Any:
                index = builder.add(code.at(source_stride, row), index)
                return code.spread(builder.load(code.place(source, index, number)))

            starts = [code.load(sums, code.at(sums_stride, row)) for row in range(num_rows)]
            ends = code.sums(starts, count, weights, value, code.multiply_add)
            for row, end in enumerate(ends):
                code.store(end, out, code.at(out_stride, row))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return product


# A loop that finds these as globals is found again among what is kept; one that encloses them is not.
_multiply_by_float32 = by_rows(partial(_product, weight_bytes=4))
_multiply_by_bfloat16 = by_rows(partial(_product, weight_bytes=2))


@inlined
def _multiply_rows(weight_bytes: Any, *arguments: Any) -> Any:
    if weight_bytes == 4:
        return _multiply_by_float32(*arguments)
    return _multiply_by_bfloat16(*arguments)


def _multiply(arguments: Any) -> None:
    numbers = carray(arguments, 9)
    rows, inputs, num_tiles, adds, weight_bytes = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    source, tiles, bias, out = numbers[5], numbers[6], numbers[7], numbers[8]
    width = num_tiles * TILE
    # All rows together ask for what follows of the tiles: each line once.
    shift = 0
    while (1 << shift) * ROWS < rows:
        shift += 1
    rarity = shift if rows >= _PREFETCHING_ROWS else _NEVER
    for turn in range(num_threads()):
        tile = take_tile(arguments, num_tiles, turn)
        while tile >= 0:
            for first in range(0, inputs, _INPUTS):
                count = min(_INPUTS, inputs - first)
                part = tiles + weight_bytes * TILE * (tile * inputs + first)
                row = 0
                while row < rows:
                    to = out + 4 * (row * width + tile * TILE)
                    at = source + 4 * (row * inputs + first)
                    sums, stride = (to, width) if first or adds else (bias + 4 * TILE * tile, 0)
                    following = part + weight_bytes * TILE * (count + row // ROWS * (count >> rarity))
                    row += _multiply_rows(
                        weight_bytes, rows - row, at, inputs, part, count, sums, stride, to, width, following, rarity
                    )
            tile = take_tile(arguments, num_tiles, turn)


@cache
def _loop() -> ParallelLoop:
    return ParallelLoop(_multiply)
