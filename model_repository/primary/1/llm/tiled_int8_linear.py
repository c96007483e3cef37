"""Linear layers with weights of 8 bits, in tiles, on a CPU that has AVX-512 VNNI; see `llm.tiles`. Engine thread."""

from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types

from llm.compiled import ParallelLoop, Scratch, Step, exact_loop, inlined
from llm.int8_linear import quantise
from llm.intrinsics import address, float_of, intrinsic, num_threads, thread_number
from llm.tiles import TILE, TileCode, Tiled, by_rows, take_tile, tiled

# Inputs that one instruction multiplies and adds up. It takes rows as unsigned, and so shifted.
_GROUP, _SHIFT = 4, 128

_F32, _I32, _U64 = np.float32, np.int32, np.uint64


class TiledInt8Linear(Tiled):
    """What `llm.int8_linear.Int8Linear` computes, without oneDNN: faster, above all for few rows."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        rounded, scales = quantise(weight)
        super().__init__(tiled(rounded, _GROUP), len(weight), bias)
        self._num_inputs = weight.shape[1]
        padding = (0, self.width - len(weight))
        self._scales = torch.nn.functional.pad(scales / 127, padding)
        # What the rows' shift adds to each sum, taken off in advance.
        self._starts = torch.nn.functional.pad(rounded.sum(dim=1, dtype=torch.int32) * -_SHIFT, padding)

    @staticmethod
    def is_supported() -> bool:
        """Whether this CPU has the instruction."""
        return bool(torch.cpu._is_avx512_supported() and torch.cpu._is_vnni_supported())

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """See `llm.linear.Linear`."""
        out = rows.new_empty(len(rows), self.width)
        for step in self.steps(rows.contiguous(), out, lambda _, *shape, dtype: torch.empty(*shape, dtype=dtype)):
            step.run()
        return self._outputs(out)

    def steps(self, rows: torch.Tensor, out: torch.Tensor, scratch: Scratch, *, adds: bool = False) -> list[Step]:
        """See `llm.tiled_linear.TiledLinear`."""
        width = -(-self._num_inputs // _GROUP) * _GROUP
        rounded = scratch("rounded", len(rows), width, dtype=torch.uint8)
        largest = scratch("largest", len(rows), dtype=torch.float32)
        sizes = len(rows), width // _GROUP, len(self._tiles), adds
        constants = self._tiles, self._starts, self._scales, self._bias
        return [
            Step.of(_round, *rows.shape, width, rows, rounded, largest),
            Step.of(_loop(), *sizes, rounded, largest, *constants, out),
        ]


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
    out = carray(address(numbers[4]), rows * width, np.uint8)
    largest = carray(address(numbers[5]), rows, _F32)
    for row in range(thread_number(), rows, num_threads()):
        top = _largest(bits, row * inputs, inputs)
        largest[row] = top
        scale = _F32(127) / top if top > 0 else _F32(0)
        for i in range(inputs):
            # Cuts off, and only what is positive.
            out[_U64(row * width + i)] = np.uint8(_I32(source[_U64(row * inputs + i)] * scale + _F32(_SHIFT + 0.5)))
        for i in range(inputs, width):
            out[row * width + i] = 0


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
            kind = ir.FunctionType(code.vector, [code.vector] * 3)
            name = "llvm.x86.avx512.vpdpbusd.512"
            dot = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)

            def value(row: int, index: Any) -> Any:
                index = builder.add(code.at(groups, row), index)
                return code.spread(builder.load(code.place(source, index, number)))

            sums = code.sums(
                [code.load(starts, zero) for _ in range(num_rows)],
                groups,
                lambda index: code.load(tile, builder.mul(index, integer(TILE))),
                value,
                lambda value, weight, sums: builder.call(dot, [sums, value, weight]),
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
            here = 4 * TILE * tile
            row = 0
            while row < rows:
                at, part, to = rounded + 4 * row * groups, tiles + here * groups, out + 4 * row * width + here
                added, stride = (to, width) if adds else (bias + here, 0)
                factors = largest + 4 * row
                row += _multiply_rows(
                    rows - row, at, groups, part, starts + here, scales + here, factors, added, stride, to, width
                )
            tile = take_tile(arguments, num_tiles, turn)


@cache
def _loop() -> ParallelLoop:
    return exact_loop(_multiply)
