"""Linear layers with weights of 8 bits, in tiles, on a CPU that has AVX2 or more; see `llm.tiles`. Engine thread.

oneDNN's and torch's own need VNNI or add up in 16 bits, which overflow: without it oneDNN takes ten times as long as
float32. Sums of integers are exact, and rows are rounded alike everywhere, so that all CPUs give the same products.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types

from llm.compiled import ParallelLoop, Scratch, Step, exact_loop, inlined
from llm.intrinsics import address, float_of, intrinsic, num_threads, thread_number
from llm.tiles import LANES, TILE, TileCode, Tiled, by_rows, take_tile, tiled

# Inputs of a row, in 32 bits, that one instruction multiplies and adds up: VNNI's takes four of 8 bits, unsigned and so
# shifted; AVX2's and AVX-512's take two of 16, and weights that are widened to as many as they are read.
_HAS_VNNI = bool(torch.cpu._is_avx512_supported() and torch.cpu._is_vnni_supported())
_GROUP, _SHIFT, _ROW_TYPE = (4, 128, np.uint8) if _HAS_VNNI else (2, 0, np.int16)

_F32, _I32, _U64 = np.float32, np.int32, np.uint64


class TiledInt8Linear(Tiled):
    """8-bit weights, scaled for each output, times rows that are rounded to 8 bits, scaled for each row.

    A row is scaled by its own largest number, so that it does not depend on the rows beside it; torch's dynamic
    quantisation takes one scale for all rows, which can leave nothing of a row of small numbers.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        rounded, scales = _quantise(weight)
        super().__init__(tiled(rounded, _GROUP), len(weight), bias)
        self._num_inputs = weight.shape[1]
        padding = (0, self.width - len(weight))
        self._scales = torch.nn.functional.pad(scales / 127, padding)
        # What the rows' shift adds to each sum, taken off in advance.
        self._starts = torch.nn.functional.pad(rounded.sum(dim=1, dtype=torch.int32) * -_SHIFT, padding)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """See `llm.linear.Linear`."""
        out = rows.new_empty(len(rows), self.width)
        for step in self.steps(rows.contiguous(), out, lambda _, *shape, dtype: torch.empty(*shape, dtype=dtype)):
            step.run()
        return self._outputs(out)

    def steps(self, rows: torch.Tensor, out: torch.Tensor, scratch: Scratch, *, adds: bool = False) -> list[Step]:
        """See `llm.tiled_linear.TiledLinear`."""
        width = -(-self._num_inputs // _GROUP) * _GROUP
        rounded = scratch("rounded", len(rows), width, dtype=torch.uint8 if _HAS_VNNI else torch.int16)
        largest = scratch("largest", len(rows), dtype=torch.float32)
        sizes = len(rows), width // _GROUP, len(self._tiles), adds
        constants = self._tiles, self._starts, self._scales, self._bias
        return [
            Step.of(_round, *rows.shape, width, rows, rounded, largest),
            Step.of(_loop(), *sizes, rounded, largest, *constants, out),
        ]


def _quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[outputs, inputs]` as integers of -127 to 127, and by what `[outputs]` each output's are to be multiplied."""
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / scales[:, None]).round().to(torch.int8), scales


@inlined
def _largest(bits: Any, first: Any, count: Any) -> Any:
    """The largest of absolute numbers, by their bits: these have the same order, in which NaN stands last."""
    largest = _I32(0)
    for i in range(first, first + count):
        largest = max(largest, bits[_U64(i)] & _I32(0x7FFFFFFF))
    return float_of(largest)


@exact_loop
def _round(arguments: Any) -> None:
    numbers = carray(arguments, 6)
    rows, inputs, width = numbers[0], numbers[1], numbers[2]
    source = carray(address(numbers[3]), rows * inputs, _F32)
    bits = carray(address(numbers[3]), rows * inputs, _I32)
    out = carray(address(numbers[4]), rows * width, _ROW_TYPE)
    largest = carray(address(numbers[5]), rows, _F32)
    for row in range(thread_number(), rows, num_threads()):
        top = _largest(bits, row * inputs, inputs)
        largest[row] = top
        scale = _F32(127) / top if top > 0 else _F32(0)
        for i in range(inputs):
            # Cuts off, and only what is positive.
            rounded = _I32(source[_U64(row * inputs + i)] * scale + _F32(128.5)) - _I32(128 - _SHIFT)
            out[_U64(row * width + i)] = _ROW_TYPE(rounded)
        for i in range(inputs, width):
            out[row * width + i] = 0


class _VnniInstructions:
    """Code that reads a group's weights and adds their products up, by VNNI."""

    def __init__(self, code: TileCode) -> None:
        self._code = code
        self._dot = code.function("llvm.x86.avx512.vpdpbusd.512", code.vector, [code.vector] * 3)

    def weights(self, tile: Any, group: Any) -> list[Any]:
        """The group's weights, in two registers."""
        return self._code.load(tile, self._code.builder.mul(group, group.type(TILE)))

    def multiply_add(self, value: Any, weight: Any, sums: Any) -> Any:
        """See `llm.tiles.TileCode.sums`."""
        return self._code.builder.call(self._dot, [sums, value, weight])


class _WideningInstructions:
    """The same without VNNI."""

    def __init__(self, code: TileCode) -> None:
        self._code = code
        self._narrow, self._wide = (ir.VectorType(ir.IntType(width), 2 * LANES) for width in (8, 16))
        name = "llvm.x86.avx512.pmaddw.d.512" if LANES == 16 else "llvm.x86.avx2.pmadd.wd"
        self._pairs = code.function(name, code.vector, [self._wide] * 2)

    def weights(self, tile: Any, group: Any) -> list[Any]:
        """See `_VnniInstructions`; half a register of 8 bits gives a register of 16."""
        builder, half = self._code.builder, LANES // 2
        first = builder.mul(group, group.type(LANES))
        starts = first, builder.add(first, group.type(half))
        places = [self._code.place(tile, start, self._narrow) for start in starts]
        return [builder.sext(builder.load(place, align=1), self._wide) for place in places]

    def multiply_add(self, value: Any, weight: Any, sums: Any) -> Any:
        """See `llm.tiles.TileCode.sums`."""
        builder = self._code.builder
        return builder.add(sums, builder.call(self._pairs, [builder.bitcast(value, self._wide), weight]))


def _product(num_rows: int) -> Any:
    """Compiled code that multiplies so many rows by a tile."""
    number = ir.IntType(32)

    @intrinsic
    def product(
        _typing: Any,
        _source: Any,
        _groups: Any,
        _tile: Any,
        _starts: Any,
        _scales: Any,
        _factors: Any,
        _added: Any,
        _added_stride: Any,
        _out: Any,
        _out_stride: Any,
    ) -> Any:
        """Store the sums over `groups` of inputs, from `starts` on, times `scales` and `factors`, plus `added`."""

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            source, groups, tile, starts, scales, factors, added, added_stride, out, out_stride = arguments
            code, integer = TileCode(builder, number), source.type
            floats, zero = ir.VectorType(ir.FloatType(), TILE // 2), integer(0)
            instructions = _VnniInstructions(code) if _HAS_VNNI else _WideningInstructions(code)

            def value(row: int, index: Any) -> Any:
                index = builder.add(code.at(groups, row), index)
                return code.spread(builder.load(code.place(source, index, number)))

            sums = code.sums(
                [code.load(starts, zero) for _ in range(num_rows)],
                groups,
                lambda index: instructions.weights(tile, index),
                value,
                instructions.multiply_add,
            )
            of_outputs = code.load(scales, zero, floats)
            for row in range(num_rows):
                of_row = code.spread(builder.load(code.place(factors, row, ir.FloatType())))
                results = []
                more = code.load(added, code.at(added_stride, row), floats)
                for half, scale, offset in zip(sums[row], of_outputs, more, strict=True):
                    scaled = builder.fmul(builder.fmul(builder.sitofp(half, floats), scale), of_row)
                    results.append(builder.fadd(scaled, offset))
                code.store(results, out, code.at(out_stride, row))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return product


# A loop that finds these as globals is found again among what is kept; one that encloses them is not.
_multiply_rows = by_rows(_product)


def _multiply(arguments: Any) -> None:
    numbers = carray(arguments, 11)
    rows, groups, num_tiles, adds = numbers[0], numbers[1], numbers[2], numbers[3]
    rounded, largest, tiles, starts = numbers[4], numbers[5], numbers[6], numbers[7]
    scales, bias, out = numbers[8], numbers[9], numbers[10]
    width = num_tiles * TILE
    for turn in range(num_threads()):
        tile = take_tile(arguments, num_tiles, turn)
        while tile >= 0:
            here, part = 4 * TILE * tile, tiles + _GROUP * TILE * tile * groups
            row = 0
            while row < rows:
                at, part, to = (
                    rounded + 4 * row * groups,
                    tiles + _GROUP * TILE * tile * groups,
                    out + 4 * row * width + here,
                )
                added, stride = (to, width) if adds else (bias + here, 0)
                factors = largest + 4 * row
                row += _multiply_rows(
                    rows - row, at, groups, part, starts + here, scales + here, factors, added, stride, to, width
                )
            tile = take_tile(arguments, num_tiles, turn)


@cache
def _loop() -> ParallelLoop:
    return exact_loop(_multiply)
