"""Compiled code for queries that lie side by side in a tile, see `llm.tiles`: a row of numbers for each of their own.

Rows of the cache are multiplied by the tile where they lie, a number at a time for all queries; what comes out is a
tile of the same width, with a row for each row of the cache.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from llm.compiled import inlined
from llm.intrinsics import intrinsic
from llm.tiles import ROWS, TILE, TileCode, by_rows


def _product(num_rows: int) -> Any:
    """Compiled code that multiplies so many rows by a tile."""
    number = ir.FloatType()

    @intrinsic
    def product(
        _typing: Any,
        _source: Any,
        _row_stride: Any,
        _stride: Any,
        _tile: Any,
        _count: Any,
        _sums: Any,
        _sums_stride: Any,
        _out: Any,
    ) -> Any:
        """Add `count` numbers of each row times those of the tile to `sums`, and store them at `out`, a tile's width.

        Addresses are bytes, strides numbers: from row to row, and from one number of a row to the next.
        """

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            source, row_stride, stride, tile, count, sums, sums_stride, out = arguments
            code, integer = TileCode(builder, number), source.type

            def value(row: int, index: Any) -> Any:
                at = builder.add(code.at(row_stride, row), builder.mul(index, stride))
                return code.spread(builder.load(code.place(source, at, number)))

            starts = [code.load(sums, code.at(sums_stride, row)) for row in range(num_rows)]
            ends = code.sums(
                starts,
                count,
                lambda index: code.load(tile, builder.mul(index, integer(TILE))),
                value,
                code.multiply_add,
            )
            for row, end in enumerate(ends):
                code.store(end, out, integer(row * TILE))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return product


# A loop that finds it as a global is found again among what is kept; one that encloses it is not.
_multiply_some = by_rows(_product, (1, 2, 4, ROWS))


@inlined
def multiply_rows(
    num_rows: Any,
    source: Any,
    row_stride: Any,
    stride: Any,
    tile: Any,
    count: Any,
    sums: Any,
    sums_stride: Any,
    out: Any,
) -> None:
    """Multiply any number of rows: see `product`."""
    row = 0
    while row < num_rows:
        left, at, added = num_rows - row, source + 4 * row * row_stride, sums + 4 * row * sums_stride
        row += _multiply_some(left, at, row_stride, stride, tile, count, added, sums_stride, out + 4 * row * TILE)


@intrinsic
def raise_tops(_typing: Any, _tops: Any, _scores: Any, _count: Any) -> Any:
    """Make each of a tile's width of tops the largest of itself and its column of `count` rows of scores."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        tops, scores, count = arguments
        code = TileCode(builder, ir.FloatType())
        (largest,) = code.sums(
            [code.load(tops, tops.type(0))],
            count,
            lambda index: code.load(scores, builder.mul(index, tops.type(TILE))),
            lambda _row, _index: None,
            lambda _, score, top: builder.select(builder.fcmp_ordered(">", score, top), score, top),
        )
        code.store(largest, tops, tops.type(0))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def scale_rows(_typing: Any, _rows: Any, _count: Any, _factors: Any) -> Any:
    """Multiply each of `count` rows, a tile wide, by the factors of its columns."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        rows, count, factors = arguments
        code = TileCode(builder, ir.FloatType())
        halves = code.load(factors, rows.type(0))
        with cgutils.for_range(builder, count) as loop:
            first = builder.mul(loop.index, rows.type(TILE))
            scaled = [builder.fmul(*pair) for pair in zip(code.load(rows, first), halves, strict=True)]
            code.store(scaled, rows, first)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate
