"""Which cache blocks are free. Knows nothing of tensors; owned by the engine thread."""


class BlockPool:
    """Hands out block numbers and takes them back.

    Args:
        num_blocks: blocks in the cache.
        block_size: tokens per block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def num_missing(self, block_table: list[int], num_tokens: int) -> int:
        """Blocks that `block_table` lacks to hold `num_tokens` tokens."""
        return max(0, -(-num_tokens // self.block_size) - len(block_table))

    def can_extend(self, block_table: list[int], num_tokens: int) -> bool:
        """Whether `extend` would succeed."""
        return self.num_missing(block_table, num_tokens) <= len(self._free)

    def extend(self, block_table: list[int], num_tokens: int) -> None:
        """Append blocks to `block_table` until it holds `num_tokens` tokens."""
        block_table.extend(self._free.pop() for _ in range(self.num_missing(block_table, num_tokens)))

    def release(self, block_table: list[int]) -> None:
        """Take all blocks of `block_table` back and empty it."""
        self._free.extend(reversed(block_table))
        block_table.clear()
