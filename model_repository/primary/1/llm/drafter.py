"""Speculative decoding: rows for tokens that are not drawn yet, and which of them count. No torch; engine thread.

A pass over a few rows takes hardly longer than one over a single row, as it waits for the weights. So where few streams
share a pass, drafts fill it up (`llm.prompt_lookup`).
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import TYPE_CHECKING

from llm.block_pool import BlockPool
from llm.errors import GenerationError
from llm.scheduler import Chunk
from llm.sequence import Sequence

if TYPE_CHECKING:
    from llm.sampler import Draw

    # A row of a pass, and what was drawn from it or why nothing was.
    Drawn = tuple[Chunk, Draw | GenerationError]


class Drafter:
    """Adds drafts to passes.

    Args:
        pool: the cache's blocks.
        max_rows: rows of a pass up to which drafts are added.

    Attributes:
        num_drafted: tokens of drafts that were computed.
        num_accepted: those of them that were drawn in their place.
    """

    def __init__(self, pool: BlockPool, max_rows: int) -> None:
        self.num_drafted = 0
        self.num_accepted = 0
        self._pool = pool
        self._max_rows = max_rows

    def draft(self, streams: Rows[Chunk]) -> list[Chunk]:
        """Rows for what the streams of a pass may go on with; none where prompts are among them."""
        if len(streams) >= self._max_rows or any(chunk.num_tokens > 1 or not chunk.is_last for chunk in streams):
            return []
        rows: list[Chunk] = []
        for chunk in streams:
            sequence, num_left = chunk.sequence, self._max_rows - len(streams) - len(rows)
            most = min(num_left, sequence.max_length - len(sequence.token_ids) - 1)
            if most <= 0 or sequence.logits_rule is not None:  # which follows each token, and cannot be taken back
                continue
            draft = sequence.lookup.draft(sequence.token_ids, most)
            if not self._pool.can_extend(sequence.block_table, chunk.end + len(draft)):
                continue
            self._pool.extend(sequence.block_table, chunk.end + len(draft))
            rows += [
                Chunk(sequence.going_on(draft[: number + 1]), chunk.end + number, 1, sequence)
                for number in range(len(draft))
            ]
        self.num_drafted += len(rows)
        return rows

    def accepted(self, drawn: Rows[Drawn]) -> list[Drawn]:
        """The rows that count: those without a draft, and those whose draft is what was drawn in its place.

        Args:
            drawn: the rows of a pass, drafts behind what they go on from, with what was drawn from each.
        """
        kept: list[Drawn] = []
        before: dict[Sequence, int | None] = {}
        num_accepted: dict[Sequence, int] = {}
        for row, draw in drawn:
            token_id = None if isinstance(draw, GenerationError) else draw.token_id
            is_accepted = row.drafted_for is None or row.sequence.token_ids[-1] == before[row.owner]
            if row.drafted_for is not None:
                num_accepted[row.owner] = num_accepted.get(row.owner, 0) + is_accepted
            if is_accepted:
                kept.append((row, draw))
            before[row.owner] = token_id if is_accepted else None
        for sequence, number in num_accepted.items():
            sequence.lookup.learn(number)
        self.num_accepted += sum(num_accepted.values())
        return kept
