"""What linear layers on a CPU have in common that keep their weights in tiles, in the order in which they are read.

A few rows take as long as their weights take to come from memory, many as long as the multiplications. So a tile is as
many outputs as fill two registers: a thread reads it from its first input to its last, and keeps the sums of several
rows in registers meanwhile. A row's sums are added up in the same order whatever rows are beside it, so that its result
does not depend on them.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from llvmlite import ir
from numba.core import cgutils

from llm.compiled import inlined, take
from llm.huge_pages import HugePages
from llm.intrinsics import num_threads, thread_number

# 32-bit numbers in a register, and rows at a time: their sums take 16 registers of 32, or 12 of 16.
LANES, ROWS = (16, 8) if torch.cpu._is_avx512_supported() else (8, 6)
TILE = 2 * LANES

_tiles = HugePages()


class Tiled:
    """What a layer in tiles is beside its products.

    Args:
        tiles: its weight, by `tiled`.
        num_outputs: how many outputs it has.
        bias: `[num_outputs]`.
    """

    def __init__(self, tiles: torch.Tensor, num_outputs: int, bias: torch.Tensor | None) -> None:
        self._tiles = tiles
        self._num_outputs = num_outputs
        self._bias = torch.zeros(num_outputs) if bias is None else bias
        self._bias = torch.nn.functional.pad(self._bias, (0, len(tiles) * TILE - num_outputs))

    @property
    def width(self) -> int:
        """Numbers in a row of what its steps write: the outputs, filled up to whole tiles."""
        return len(self._bias)

    @property
    def is_whole(self) -> bool:
        """Whether the outputs are whole tiles."""
        return self.width == self._num_outputs

    def _outputs(self, written: torch.Tensor) -> torch.Tensor:
        return written if self.is_whole else written[:, : self._num_outputs].contiguous()


def tiled(weight: torch.Tensor, group: int) -> torch.Tensor:
    """`[outputs, inputs]` as tiles `[tiles, inputs / group, TILE, group]`; zeros stand for what they lack."""
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -inputs % group, 0, -outputs % TILE))
    return _tiles.copy(padded.view(len(padded) // TILE, TILE, -1, group).transpose(1, 2))


def tiled_bfloat16(weight: torch.Tensor) -> torch.Tensor:
    """`[outputs, inputs]` of numbers that are bfloat16's as tiles `[tiles, inputs, LANES, 2]`.

    Two lie in 32 bits: the first register's in the lower half, the second's in the upper.
    """
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight.bfloat16(), (0, 0, 0, -outputs % TILE))
    return _tiles.copy(padded.view(len(padded) // TILE, 2, LANES, inputs).permute(0, 3, 2, 1))


@inlined
def take_tile(arguments: Any, num_tiles: Any, turn: Any) -> Any:
    """A tile for this thread, or -1. In turn 0 of its own share, which lies in one piece, then what is left of others'.

    So a thread whose core is taken meanwhile keeps nobody waiting.
    """
    threads = num_threads()
    owner = (thread_number() + turn) % threads
    tile = num_tiles * owner // threads + take(arguments, owner)
    return tile if tile < num_tiles * (owner + 1) // threads else -1


def by_rows(product: Callable[[int], Any], numbers: Collection[int] = range(1, ROWS + 1)) -> Any:
    """Compiled code that multiplies as many of the rows that are left as go together, and says how many these were.

    Args:
        product: makes the code for a number of rows.
        numbers: for which there is some, 1 and `ROWS` among them. Rows that go over a tile in two parts take a fifth
            longer than in one.
    """
    together = tuple(max(number for number in numbers if number <= left) for left in range(1, ROWS + 1))
    made = {number: product(number) for number in together}
    one, two, three, four, five, six, seven = (made[together[min(left, ROWS) - 1]] for left in range(1, 8))
    most = made[ROWS]

    # By branches: as functions that call each other, the compiler takes two and a half times as long over them.
    @inlined
    def multiply(left: Any, *arguments: Any) -> Any:
        if left >= ROWS:
            most(*arguments)
        elif left == 7:
            seven(*arguments)
        elif left == 6:
            six(*arguments)
        elif left == 5:
            five(*arguments)
        elif left == 4:
            four(*arguments)
        elif left == 3:
            three(*arguments)
        elif left == 2:
            two(*arguments)
        else:
            one(*arguments)
        return together[min(left, ROWS) - 1]

    return multiply


class TileCode:
    """Adds to code that is being made: the sums of some rows and a tile, in registers.

    Args:
        builder: numba's.
        number: the kind of a sum.
    """

    def __init__(self, builder: Any, number: Any) -> None:
        self.builder = builder
        self.vector = ir.VectorType(number, LANES)
        self._integer = ir.IntType(64)

    def place(self, base: Any, index: Any, kind: Any) -> Any:
        """A pointer to the 32 bits of that index behind an address."""
        index = self._integer(index) if isinstance(index, int) else index
        return self.builder.inttoptr(
            self.builder.add(base, self.builder.mul(index, self._integer(4))), kind.as_pointer()
        )

    def function(self, name: str, result: Any, arguments: list[Any]) -> Any:
        """An instruction by LLVM's name for it."""
        kind = ir.FunctionType(result, arguments)
        return self.builder.module.globals.get(name) or ir.Function(self.builder.module, kind, name)

    def multiply_add(self, value: Any, weight: Any, sum_: Any) -> Any:
        """`value * weight + sum_`, rounded once."""
        function = self.function(f"llvm.fma.v{LANES}f32", self.vector, [self.vector] * 3)
        return self.builder.call(function, [value, weight, sum_])

    def at(self, stride: Any, row: int) -> Any:
        """Where a row begins."""
        return self.builder.mul(stride, self._integer(row))

    def load(self, base: Any, first: Any, vector: Any = None) -> list[Any]:
        """The two registers' numbers from an index on."""
        starts = (self.builder.add(first, self._integer(half * LANES)) for half in (0, 1))
        return [self.builder.load(self.place(base, start, vector or self.vector), align=4) for start in starts]

    def store(self, values: list[Any], base: Any, first: Any) -> None:
        """The same, written."""
        for half, value in enumerate(values):
            start = self.builder.add(first, self._integer(half * LANES))
            self.builder.store(value, self.place(base, start, value.type), align=4)

    def spread(self, number: Any) -> Any:
        """A register full of one number."""
        vector = ir.VectorType(number.type, LANES)
        nothing, first = ir.Constant(vector, ir.Undefined), ir.IntType(32)(0)
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(self.builder.insert_element(nothing, number, first), nothing, all_lanes)

    def sums(
        self,
        starts: list[list[Any]],
        count: Any,
        weights: Callable[[Any], list[Any]],
        value: Callable[[int, Any], Any],
        multiply_add: Callable[[Any, Any, Any], Any],
    ) -> list[list[Any]]:
        """The sums of some rows, from `starts`, over so many inputs, or groups of them.

        Args:
            starts: for each row two registers.
            count: how many.
            weights: the tile's two registers, by the input.
            value: the register of a row's input.
            multiply_add: value, weight and sum to the new sum.
        """
        builder = self.builder
        registers = [[cgutils.alloca_once_value(builder, half) for half in row] for row in starts]
        with cgutils.for_range(builder, count) as loop:
            halves = weights(loop.index)
            for row, sums in enumerate(registers):
                spread = value(row, loop.index)
                for half, weight in zip(sums, halves, strict=True):
                    builder.store(multiply_add(spread, weight, builder.load(half)), half)
        return [[builder.load(half) for half in row] for row in registers]
