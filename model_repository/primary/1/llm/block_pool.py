"""Which cache blocks are free, and which hold what. Knows nothing of tensors; owned by the engine thread.

A full block's name is a hash of its tokens and of all tokens before it, so equal names mean equal keys and values.
Named blocks that nobody holds stay until their memory is needed; the one given back longest ago goes first.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b


class BlockPool:
    """Hands out block numbers, takes them back, and finds blocks by their content.

    A block is free (no content), held (by one sequence or more), or idle (named, but held by nobody).

    Args:
        num_blocks: blocks in the cache.
        block_size: tokens per block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._num_holders = [0] * num_blocks
        self._named: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free) + len(self._idle)

    def num_missing(self, block_table: list[int], num_tokens: int) -> int:
        """Blocks that `block_table` lacks to hold `num_tokens` tokens."""
        return max(0, -(-num_tokens // self.block_size) - len(block_table))

    def can_extend(self, block_table: list[int], num_tokens: int) -> bool:
        """Whether `extend` would succeed."""
        return self.num_missing(block_table, num_tokens) <= self.num_free

    def extend(self, block_table: list[int], num_tokens: int) -> None:
        """Append blocks to `block_table` until it holds `num_tokens` tokens."""
        block_table.extend(self._take() for _ in range(self.num_missing(block_table, num_tokens)))

    def release(self, block_table: list[int]) -> None:
        """Let go of all blocks of `block_table` and empty it."""
        # From the end, so that of one sequence's idle blocks the end goes first: the beginning is worth more.
        for block in reversed(block_table):
            self._num_holders[block] -= 1
            if self._num_holders[block] == 0:
                if block in self._names:
                    self._idle[block] = None
                else:
                    self._free.append(block)
        block_table.clear()

    def find(self, names: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest beginning of `names`."""
        blocks = []
        for name in names:
            block = self._named.get(name)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_idle(self, blocks: Sequence[int]) -> int:
        """How many of `blocks` count as free now, and would no longer when held."""
        return sum(self._num_holders[block] == 0 for block in blocks)

    def hold(self, blocks: Sequence[int]) -> list[int]:
        """Begin a block table with named blocks."""
        for block in blocks:
            self._num_holders[block] += 1
            self._idle.pop(block, None)
        return list(blocks)

    def name(self, block: int, name: bytes) -> None:
        """Say what a held block holds. The first block of a name keeps it."""
        if name not in self._named and block not in self._names:
            self._named[name] = block
            self._names[block] = name

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._named[self._names.pop(block)]
        self._num_holders[block] = 1
        return block


def block_names(token_ids: Sequence[int], block_size: int, names: list[bytes]) -> list[bytes]:
    """Names of the full blocks of `token_ids`, given those of its first blocks, which are not computed again.

    128 bits of BLAKE2b: nobody can make two prefixes collide, and so read another's cache.
    """
    names = list(names)
    for start in range(len(names) * block_size, len(token_ids) - block_size + 1, block_size):
        previous = names[-1] if names else b""
        content = array("q", token_ids[start : start + block_size]).tobytes()
        names.append(blake2b(previous + content, digest_size=16).digest())
    return names
