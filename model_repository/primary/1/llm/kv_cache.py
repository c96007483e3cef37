"""Keys and values of every layer, in blocks of tokens. Owned by the engine thread."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

BLOCK_SIZE = 32


@dataclass(frozen=True)
class LayerShape:
    """Heads and widths of one attention layer's keys and values."""

    num_kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def numbers_per_token(self) -> int:
        """Elements that one token takes in this layer."""
        return self.num_kv_heads * (self.key_dim + self.value_dim)


class KVCache:
    """Per layer a key and a value tensor `[num_blocks, block_size, num_kv_heads, dim]`.

    Args:
        layers: the shape of each attention layer, by layer index.
        num_blocks: blocks to allocate; all of their memory is taken here and kept.
    """

    def __init__(
        self, layers: Mapping[int, LayerShape], num_blocks: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = BLOCK_SIZE

        def allocate(heads: int, dim: int) -> torch.Tensor:
            return torch.zeros(num_blocks, BLOCK_SIZE, heads, dim, dtype=dtype, device=device)

        self.keys = {i: allocate(shape.num_kv_heads, shape.key_dim) for i, shape in layers.items()}
        self.values = {i: allocate(shape.num_kv_heads, shape.value_dim) for i, shape in layers.items()}

    @staticmethod
    def block_bytes(layers: Mapping[int, LayerShape], dtype: torch.dtype) -> int:
        """Memory of one block over all layers."""
        return BLOCK_SIZE * dtype.itemsize * sum(shape.numbers_per_token for shape in layers.values())

    def write(self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store `key` and `value` `[tokens, heads, dim]` at `slots` `[tokens]` (block number x block size + offset)."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slots, key)
        self.values[layer].flatten(0, 1).index_copy_(0, slots, value)

    def read(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of `blocks` `[rows, blocks]` as two tensors `[rows, heads, blocks x block_size, dim]`."""

        def gather(cache: torch.Tensor) -> torch.Tensor:
            rows = cache.index_select(0, blocks.flatten())
            return rows.view(blocks.shape[0], -1, *cache.shape[2:]).transpose(1, 2)

        return gather(self.keys[layer]), gather(self.values[layer])
