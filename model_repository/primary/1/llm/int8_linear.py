"""Linear layers with weights of 8 bits, multiplied by oneDNN, on any CPU. Engine thread."""

from typing import Any

import torch

# Rows of 8 bits are shifted to be unsigned, which is what VNNI multiplies by signed weights. Without VNNI such products
# are added up in 16 bits, which overflow.
_SHIFT, _ROW_TYPE = (128, torch.uint8) if torch.cpu._is_vnni_supported() else (0, torch.int8)


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[outputs, inputs]` as integers of -127 to 127, and by what `[outputs]` each output's are to be multiplied."""
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / scales[:, None]).round().to(torch.int8), scales


class Int8Linear:
    """8-bit weights, scaled for each output, times rows that are rounded to 8 bits, scaled for each row.

    A row is scaled by its own largest number, so that it does not depend on the rows beside it; torch's dynamic
    quantisation takes one scale for all rows, which can leave nothing of a row of small numbers. The products are
    sums of integers and therefore exact. The zero point takes the shift back out of them.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        rounded, scales = quantise(weight)
        self._packed: Any = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._scales = scales / 127
        self._zero_points = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        # torch's infinity norm of 32 rows takes ten times as long: as much as half of the product.
        largest = rows.abs().amax(dim=-1, keepdim=True)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            _rounded(rows, largest),
            1.0,
            _SHIFT,
            self._packed,
            self._scales,
            self._zero_points,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        product.mul_(largest)
        return product if self._bias is None else product.add_(self._bias)


_HALF_UP = torch.tensor(_SHIFT + 0.5)


def _rounded(rows: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Rows as integers of -127 to 127, shifted. Of a row of zeros any will do: the product is multiplied by zero."""
    scaled = torch.addcdiv(_HALF_UP, rows, largest, value=127)
    return (scaled if _SHIFT else scaled.floor_()).to(_ROW_TYPE)  # which cuts off, and only what is positive
