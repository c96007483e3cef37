"""Linear layers in float32 on a CPU, in tiles; see `llm.tiles`. Engine thread."""

from functools import cache
from typing import Any

import torch
from llvmlite import ir
from numba import carray, types

from llm.compiled import ParallelLoop, Scratch, Step
from llm.intrinsics import emit_prefetch, intrinsic, num_threads
from llm.tiles import LANES, ROWS, TILE, TileCode, Tiled, by_rows, take_tile, tiled

# Inputs at a time, so that their part of a tile stays in a core's second-level cache while all rows go over it.
_INPUTS = 2048

# With fewer rows, memory is busy without being asked in advance.
_PREFETCHING_ROWS = 24
_NEVER = 62


class TiledLinear(Tiled):
    """A `llm.linear.Linear`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(tiled(weight, 1), len(weight), bias)
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
        return Step.of(_loop(), *rows.shape, len(self._tiles), adds, rows, self._tiles, self._bias, out)


def _product(num_rows: int) -> Any:
    """Compiled code that multiplies so many rows by a part of a tile."""
    number = ir.FloatType()

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
            kind = ir.FunctionType(code.vector, [code.vector] * 3)
            name = f"llvm.fma.v{LANES}f32"
            fma = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            mask = builder.sub(builder.shl(integer(1), rarity), integer(1))

            def weights(index: Any) -> list[Any]:
                with builder.if_then(builder.icmp_unsigned("==", builder.and_(index, mask), integer(0))):
                    ahead = builder.mul(builder.lshr(index, rarity), integer(TILE))
                    for line in range(0, TILE, 16):
                        emit_prefetch(builder, code.place(following, builder.add(ahead, integer(line)), number))
                return code.load(part, builder.mul(index, integer(TILE)))

            def value(row: int, index: Any) -> Any:
                index = builder.add(code.at(source_stride, row), index)
                return code.spread(builder.load(code.place(source, index, number)))

            starts = [code.load(sums, code.at(sums_stride, row)) for row in range(num_rows)]
            ends = code.sums(starts, count, weights, value, lambda *factors: builder.call(fma, factors))
            for row, end in enumerate(ends):
                code.store(end, out, code.at(out_stride, row))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return product


# A loop that finds these as globals is found again among what is kept; one that encloses them is not.
_multiply_rows = by_rows(_product)


def _multiply(arguments: Any) -> None:
    numbers = carray(arguments, 8)
    rows, inputs, num_tiles, adds = numbers[0], numbers[1], numbers[2], numbers[3]
    source, tiles, bias, out = numbers[4], numbers[5], numbers[6], numbers[7]
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
                part = tiles + 4 * TILE * (tile * inputs + first)
                row = 0
                while row < rows:
                    to = out + 4 * (row * width + tile * TILE)
                    at = source + 4 * (row * inputs + first)
                    sums, stride = (to, width) if first or adds else (bias + 4 * TILE * tile, 0)
                    following = part + 4 * TILE * (count + row // ROWS * (count >> rarity))
                    row += _multiply_rows(
                        rows - row, at, inputs, part, count, sums, stride, to, width, following, rarity
                    )
            tile = take_tile(arguments, num_tiles, turn)


@cache
def _loop() -> ParallelLoop:
    return ParallelLoop(_multiply)
