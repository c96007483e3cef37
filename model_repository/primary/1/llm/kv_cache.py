"""Keys and values of every layer, in blocks of tokens. Owned by the engine thread."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

# Small blocks waste little and can be shared early.
BLOCK_SIZE = 32


@dataclass(frozen=True)
class LayerShape:
    """Heads and widths of one attention layer's keys and values."""

    num_kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def width(self) -> int:
        """Numbers that one token takes in this layer: its keys, then its values."""
        return self.num_kv_heads * (self.key_dim + self.value_dim)

    def split(self, key_value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values in `[..., width]`, as two views `[..., num_kv_heads, dim]`."""
        keys = self.num_kv_heads * self.key_dim
        leading = key_value.shape[:-1]
        return (
            key_value[..., :keys].view(*leading, self.num_kv_heads, self.key_dim),
            key_value[..., keys:].view(*leading, self.num_kv_heads, self.value_dim),
        )


class KVCache:
    """Per layer a tensor `[num_blocks, block_size, width]`.

    Args:
        layers: the shape of each attention layer, by layer index.
        num_blocks: blocks to allocate; all of their memory is taken here and kept.
        block_size: tokens in a block.
        dtype: what they are kept in; `write` and `rounded` take others.
    """

    def __init__(
        self,
        layers: Mapping[int, LayerShape],
        num_blocks: int,
        *,
        block_size: int = BLOCK_SIZE,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.device = device
        self.layers = {
            number: torch.zeros(num_blocks, block_size, shape.width, dtype=dtype, device=device)
            for number, shape in layers.items()
        }

    @staticmethod
    def block_bytes(layers: Mapping[int, LayerShape], dtype: torch.dtype, block_size: int = BLOCK_SIZE) -> int:
        """Memory of one block over all layers."""
        return block_size * dtype.itemsize * sum(shape.width for shape in layers.values())

    def write(self, layer: int, slots: torch.Tensor, key_value: torch.Tensor) -> None:
        """Store `key_value` `[tokens, width]` at `slots` `[tokens]` (block number x block size + offset)."""
        self.layers[layer].flatten(0, 1).index_copy_(0, slots, key_value.to(self.dtype))

    def rounded(self, key_value: torch.Tensor) -> torch.Tensor:
        """Keys and values as they are after they were written and read, in their own type."""
        return key_value.to(self.dtype).to(key_value.dtype)

    def read(self, layer: int, blocks: torch.Tensor) -> torch.Tensor:
        """What lies in `blocks` `[rows, blocks]`, in the cache's type: `[rows, blocks x block_size, width]`."""
        cache = self.layers[layer]
        return cache.index_select(0, blocks.flatten()).view(len(blocks), -1, cache.shape[-1])
