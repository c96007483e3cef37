"""Draws each sequence's next token. Stateless; runs on the engine thread.

A draw depends on the row's logits, its settings, and a number hashed from (seed, position), so a seed reproduces its
text whatever else is in the batch. Filters apply in the order temperature, top-k, top-p, as transformers does.
"""

import struct
from collections.abc import Sequence as Rows
from hashlib import blake2b

import torch

from llm.sequence import Sequence

# Nuclei are nearly always narrower than this. Sorting 64 candidates instead of a vocabulary of 49,152 makes a draw
# of 32 rows cheap; a wider nucleus takes the exact path.
NUM_CANDIDATES = 64

# Lower ones draw the same token, because the logits' own float32 is coarser; but dividing by one near 0 gives infinity
# and NaN, which would fail everybody in the pass.
MIN_TEMPERATURE = 1e-6


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 52 random bits, the same for the same arguments on every machine."""
    # 52 bits, so that even the largest one times a float64 total stays below that total.
    return (_hash(seed, position) >> 12) / 2**52


def choice_seed(seed: int, index: int) -> int:
    """The seed of choice `index` of a request."""
    return _hash(seed, -1 - index)


def _hash(seed: int, number: int) -> int:
    return int.from_bytes(blake2b(struct.pack("<Qq", seed % 2**64, number), digest_size=8).digest(), "little")


class Sampler:
    """Turns logits into token ids, each row by its own settings."""

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> list[int]:
        """Draw one token per row.

        Args:
            logits: `[rows, vocabulary]` float32.
            sequences: the rows' owners; the drawn token will stand at position `len(token_ids)`.
        """
        tokens = logits.argmax(dim=-1).tolist() if any(s.temperature == 0 for s in sequences) else [0] * len(sequences)
        plain = [i for i, s in enumerate(sequences) if s.temperature > 0 and not _is_filtered(s)]
        filtered = [i for i, s in enumerate(sequences) if s.temperature > 0 and _is_filtered(s)]
        for rows, draw in ((plain, _draw), (filtered, _draw_filtered)):
            if rows:
                chosen = [sequences[i] for i in rows]
                temperatures = _column(logits, [max(s.temperature, MIN_TEMPERATURE) for s in chosen])
                points = _column(logits, [uniform(s.seed, len(s.token_ids)) for s in chosen], torch.float64)
                for row, token in zip(rows, draw(logits[rows] / temperatures, chosen, points), strict=True):
                    tokens[row] = token
        return tokens


def _is_filtered(sequence: Sequence) -> bool:
    return sequence.top_p < 1 or sequence.top_k > 0


def _column(like: torch.Tensor, numbers: list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype, device=like.device)[:, None]


def _draw(scores: torch.Tensor, _: Rows[Sequence], points: torch.Tensor) -> list[int]:
    return _invert(scores.softmax(dim=-1), points)[:, 0].tolist()


def _draw_filtered(scores: torch.Tensor, sequences: Rows[Sequence], points: torch.Tensor) -> list[int]:
    vocabulary = scores.shape[-1]
    width = min(NUM_CANDIDATES, vocabulary)
    tokens, is_exact = _draw_from_top(scores, sequences, points, width)
    wide = [row for row, exact in enumerate(is_exact) if not exact]
    if wide:
        redrawn, _ = _draw_from_top(scores[wide], [sequences[row] for row in wide], points[wide], vocabulary)
        for row, token in zip(wide, redrawn, strict=True):
            tokens[row] = token
    return tokens


def _draw_from_top(
    scores: torch.Tensor, sequences: Rows[Sequence], points: torch.Tensor, width: int
) -> tuple[list[int], list[bool]]:
    """Draw from the `width` best tokens; says for which rows no token outside of them could have been drawn."""
    vocabulary = scores.shape[-1]
    top_k = _column(scores, [float(min(s.top_k or vocabulary, vocabulary)) for s in sequences])
    top_p = _column(scores, [s.top_p for s in sequences])
    best, token_ids = scores.topk(width, dim=-1)
    ranks = torch.arange(width, device=scores.device)
    # With top-k the nucleus is a share of the k tokens' mass, otherwise of the whole vocabulary's.
    total = torch.where(
        top_k <= width,
        best.masked_fill(ranks >= top_k, float("-inf")).logsumexp(dim=-1, keepdim=True),
        scores.logsumexp(dim=-1, keepdim=True),
    )
    probabilities = (best - total).exp().masked_fill(ranks >= top_k, 0.0)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = probabilities.masked_fill((before >= top_p) & (ranks > 0), 0.0)
    covers_nucleus = probabilities.sum(dim=-1, keepdim=True) >= top_p
    is_exact = (top_k <= width) | ((top_k >= vocabulary) & covers_nucleus)
    drawn = token_ids.gather(1, _invert(kept, points))
    return drawn[:, 0].tolist(), is_exact[:, 0].tolist()


def _invert(weights: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The first index `[rows, 1]` at which the running sum of `weights` passes `points` `[rows, 1]` of its total."""
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    targets = points * sums[:, -1:]
    return torch.searchsorted(sums, targets, right=True)
