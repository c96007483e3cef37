"""Linear layers in the form that the device multiplies fastest by the few rows of a decode pass.

On a CPU a pass over 8 rows spends most of its time on weights that are read once; how they lie in memory, and in how
many bits, decides how long. Runs on the engine thread.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch.nn.functional import linear, pad

# `[rows, inputs]` to `[rows, outputs]`.
Linear = Callable[[torch.Tensor], torch.Tensor]
# Makes one of a weight `[outputs, inputs]` and a bias `[outputs]`; does not keep the weight unless it is used as it is.
Pack = Callable[[torch.Tensor, torch.Tensor | None], Linear]

# MKL lays a matrix out for an expected number of rows. Of 16 to 512, 256 was the fastest or within 3 % of it at every
# number of rows from 1 to 512 (benchmarks/bench_linear.py).
_EXPECTED_ROWS = 256


@runtime_checkable
class AddingLinear(Protocol):
    """A `Linear` that adds as it multiplies."""

    def add_to(self, sums: torch.Tensor, rows: torch.Tensor) -> None:
        """See `JoinedLinear.add_to`."""


class JoinedLinear:
    """Layers of the same input as one, their outputs side by side.

    Until `pack`, it computes with the layers as they are and takes no memory of its own.
    """

    def __init__(self, parts: Sequence[torch.nn.Linear]) -> None:
        self.widths = [part.out_features for part in parts]
        self.has_bias = any(part.bias is not None for part in parts)
        self._parts = list(parts)
        self.packed: Linear | None = None
        self._adding: AddingLinear | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """`[rows, inputs]` to `[rows, sum(widths)]`."""
        if self.packed is not None:
            return self.packed(rows)
        return torch.cat([part(rows) for part in self._parts], dim=-1)

    def add_to(self, sums: torch.Tensor, rows: torch.Tensor) -> None:
        """Add what `rows` `[rows, inputs]` give to `sums` `[rows, sum(widths)]`, in place."""
        if self._adding is not None:
            self._adding.add_to(sums, rows)
        else:
            sums += self(rows)

    def pack(self, pack: Pack) -> None:
        """Take the layers' weights over in a faster form; the layers themselves are let go of."""
        biases = [part.bias for part in self._parts]
        assert all(bias is None for bias in biases) or None not in biases
        weights = tuple(part.weight.detach() for part in self._parts)
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        bias = None if None in biases else torch.cat(tuple(part.bias.detach() for part in self._parts))
        self.packed = pack(weight, bias)
        self._adding = self.packed if isinstance(self.packed, AddingLinear) else None
        self._parts.clear()


def choose_pack(device: torch.device, dtype: torch.dtype, quant_type: str) -> Pack:
    """The fastest form that was measured for this device."""
    if quant_type == "int8":
        from llm.tiled_int8_linear import TiledInt8Linear  # compiles, which nothing else needs

        return TiledInt8Linear
    if device.type == "cpu" and dtype == torch.float32:
        if torch._C.has_mkl and "Intel" in torch.cpu.get_capabilities()["cpu_name"]:
            return MklLinear
        if has_avx2():
            from llm.tiled_linear import TiledLinear  # likewise

            return TiledLinear
        if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return OneDnnLinear
    if device.type == "cuda":
        return CudaLinear
    if device.type == "cpu" and dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return OneDnnLinear
    return plain_linear


def has_avx2() -> bool:
    """Whether the CPU has what products in tiles need."""
    return bool(torch.cpu._is_avx2_supported())


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def plain_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The weight as it is."""
    return partial(linear, weight=weight, bias=bias)


class CudaLinear:
    """The weight as it is; cuBLAS adds to sums in the same kernel."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        return linear(rows, self._weight, self._bias)

    def add_to(self, sums: torch.Tensor, rows: torch.Tensor) -> None:
        """See `AddingLinear`."""
        if self._bias is not None:
            sums += self._bias
        sums.addmm_(rows, self._weight.t())


class MklLinear:
    """A float32 weight in MKL's own layout, which saves MKL from arranging it anew for each product."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed: Any = torch.ops.mkl._mkl_reorder_linear_weight(weight, _EXPECTED_ROWS)
        self._bias = bias
        # The operator looks at the original weight's shape only, when it is told that the rows are the expected ones.
        self._shape = weight.new_empty(1).expand(weight.shape)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        product: torch.Tensor = torch.ops.mkl._mkl_linear(rows, self._packed, self._shape, self._bias, len(rows))
        return product


# oneDNN makes code for each number of rows that it meets, and keeps it: beyond so many, rows of zeros join them.
_MANY_ROWS, _ROW_STEP = 64, 8


class OneDnnLinear:
    """A weight in oneDNN's own layout, which is the same for any number of rows but one."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        num_rows = len(rows)
        if num_rows > _MANY_ROWS and num_rows % _ROW_STEP:
            rows = pad(rows, (0, 0, 0, -num_rows % _ROW_STEP))
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return product[:num_rows]


class PackedModule(torch.nn.Module):
    """Stands in for an `nn.Linear` inside a transformers model."""

    def __init__(self, original: torch.nn.Linear, pack: Pack) -> None:
        super().__init__()
        self._linear = pack(original.weight.detach(), original.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[..., inputs]` to `[..., outputs]`."""
        rows = self._linear(hidden.flatten(0, -2))
        return rows.view(*hidden.shape[:-1], rows.shape[-1])


def pack_modules(model: torch.nn.Module, pack: Pack) -> None:
    """Replace every linear layer of a model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, PackedModule(child, pack))
