"""What a forward pass on a GPU needs to know, in two arrays, because each takes a copy to the device. Engine thread."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import numpy as np
import torch

from llm.scheduler import Chunk


@dataclass(frozen=True)
class PassInputs:
    """The tokens of a pass and where their sequences lie in the cache. The views share the arrays' memory.

    Attributes:
        longs: int64; token ids, positions, cache slots, and rows to sample from, one after the other.
        ints: int32; where each sequence's queries start, where its keys would, how many keys it has, its block table.
        num_tokens: tokens in the pass.
        num_sequences: sequences in the pass.
        longest_chunk: tokens of the longest chunk.
        longest: keys of the longest sequence, or more.
    """

    longs: torch.Tensor
    ints: torch.Tensor
    num_tokens: int
    num_sequences: int
    longest_chunk: int
    longest: int

    @classmethod
    def of(cls, chunks: Rows[Chunk], block_size: int, *, longest: int | None = None) -> Self:
        """Describe a pass, in the CPU's memory.

        Args:
            chunks: what the pass computes.
            block_size: tokens in a block of the cache.
            longest: room for sequences of so many tokens; None: of those that are in the pass.
        """
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        sampled: list[int] = []
        ends = [chunk.end for chunk in chunks]
        longest = longest or max(ends)
        tables = np.zeros((len(chunks), -(-longest // block_size)), dtype=np.int32)
        for chunk, blocks in zip(chunks, tables, strict=True):
            table, start = chunk.sequence.block_table, chunk.start
            used = table[: len(blocks)]
            blocks[: len(used)] = used  # what stands behind a sequence's end is not read
            if chunk.num_tokens == 1:  # what most chunks are
                token_ids.append(chunk.sequence.token_ids[start])
                positions.append(start)
                slots.append(table[start // block_size] * block_size + start % block_size)
            else:
                span = range(start, chunk.end)
                token_ids += chunk.sequence.token_ids[start : chunk.end]
                positions += span
                slots += [table[at // block_size] * block_size + at % block_size for at in span]
            if chunk.is_last:
                sampled.append(len(token_ids) - 1)
        lengths = [chunk.num_tokens for chunk in chunks]
        rows = [0, *accumulate(lengths), 0, *accumulate(ends), *ends]
        return cls(
            torch.from_numpy(np.array(token_ids + positions + slots + sampled, dtype=np.int64)),
            torch.from_numpy(np.concatenate([np.array(rows, dtype=np.int32), tables.ravel()])),
            len(token_ids),
            len(chunks),
            max(lengths),
            longest,
        )

    @classmethod
    def idle(cls, num_sequences: int, block_size: int, *, longest: int) -> Self:
        """A pass of sequences of one token each, all in the first place of the cache."""
        starts = torch.arange(num_sequences + 1, dtype=torch.int32)
        width = -(-longest // block_size)
        ends, table = starts.new_ones(num_sequences), starts.new_zeros(num_sequences * width)
        return cls(
            torch.cat([torch.zeros(3 * num_sequences, dtype=torch.int64), starts[:-1].long()]),
            torch.cat([starts, starts, ends, table]),
            num_sequences,
            num_sequences,
            1,
            longest,
        )

    def to(self, device: torch.device) -> Self:
        """The same on a device, which is not waited for."""
        return type(self)(
            _sendable(self.longs, device).to(device, non_blocking=True),
            _sendable(self.ints, device).to(device, non_blocking=True),
            self.num_tokens,
            self.num_sequences,
            self.longest_chunk,
            self.longest,
        )

    def copy_(self, other: Self) -> None:
        """Take the numbers of a pass of the same form over, in place; a device is not waited for."""
        self.longs.copy_(_sendable(other.longs, self.longs.device), non_blocking=True)
        self.ints.copy_(_sendable(other.ints, self.ints.device), non_blocking=True)

    @property
    def token_ids(self) -> torch.Tensor:
        """`[tokens]`."""
        return self.longs[: self.num_tokens]

    @property
    def positions(self) -> torch.Tensor:
        """`[tokens]`: each token's place in its sequence."""
        return self.longs[self.num_tokens : 2 * self.num_tokens]

    @property
    def slots(self) -> torch.Tensor:
        """`[tokens]`: where their keys and values go, block number x block size + offset."""
        return self.longs[2 * self.num_tokens : 3 * self.num_tokens]

    @property
    def sampled(self) -> torch.Tensor:
        """`[rows]`: places of the tokens whose logits are wanted."""
        return self.longs[3 * self.num_tokens :]

    @property
    def query_starts(self) -> torch.Tensor:
        """`[sequences + 1]`: where the tokens of each sequence start in the pass."""
        return self.ints[: self.num_sequences + 1]

    @property
    def key_starts(self) -> torch.Tensor:
        """`[sequences + 1]`: where the keys of each would start, if they lay one after the other."""
        return self.ints[self.num_sequences + 1 : 2 * self.num_sequences + 2]

    @property
    def ends(self) -> torch.Tensor:
        """`[sequences]`: how many keys each has."""
        return self.ints[2 * self.num_sequences + 2 : 3 * self.num_sequences + 2]

    @property
    def block_table(self) -> torch.Tensor:
        """`[sequences, blocks]`: the blocks of each, in order; zeros behind the last."""
        return self.ints[3 * self.num_sequences + 2 :].view(self.num_sequences, -1)


def _sendable(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same where a GPU can fetch them from by itself."""
    return numbers.pin_memory() if device.type == "cuda" else numbers
