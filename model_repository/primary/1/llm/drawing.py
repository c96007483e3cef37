"""Draws tokens from filtered distributions, a row each. Knows tensors only; engine thread.

Filters apply in the order temperature, top-k, top-p, min-p, as in transformers.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import partial

import torch

from llm.noise import draw_key, gumbel
from llm.sequence import Sequence

# Sorting so many of the best tokens instead of a vocabulary of 49,152 makes a draw cheap, and most nuclei are narrower.
NUM_CANDIDATES = 64
# Tokens per segment of the vocabulary.
SEGMENT = 256
# Draws from the whole vocabulary that may miss what the filters keep, before everything is sorted: 45 ms for 32 rows.
MAX_ATTEMPTS = 8
# Sets the noise of the attempts apart, and that of draws from the best; token ids are below it.
ATTEMPT = 2**40
_FROM_BEST = MAX_ATTEMPTS * ATTEMPT

# Instead of a token, where the filters let so little through that no attempt met it.
MISSED = -1

# Lower ones draw the same token, because the logits' own float32 is coarser; but dividing by one near 0 gives infinity
# and NaN, which would fail everybody in the pass.
MIN_TEMPERATURE = 1e-6


def settings_of(sequence: Sequence, vocabulary: int) -> tuple[int, float, int, float, float]:
    """The key of its next draw, temperature, top-k, top-p and min-p, within what can be computed with."""
    temperature = max(sequence.temperature, MIN_TEMPERATURE)
    top_k = min(sequence.top_k or vocabulary, vocabulary)
    return draw_key(sequence.seed, len(sequence.token_ids)), temperature, top_k, sequence.top_p, sequence.min_p


def is_judged_alone(sequence: Sequence) -> bool:
    """Whether a token's rank and the mass above it tell if the filters keep it; see `Distributions`."""
    return sequence.top_k == 0 or sequence.top_p >= 1


@dataclass(frozen=True)
class Distributions:
    """What to draw from, row by row.

    Attributes:
        scores: `[rows, vocabulary]` float32, the logits divided by the temperature.
        keys: `[rows, 1]` int64, see `llm.noise.draw_key`.
        top_k: `[rows, 1]`; the vocabulary's size keeps all.
        top_p: `[rows, 1]`; 1 keeps all.
        min_p: `[rows, 1]`; 0 keeps all.
    """

    scores: torch.Tensor
    keys: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, sequences: Rows[Sequence]) -> "Distributions":
        """The next token's distribution of each sequence, whose row in `logits` has its place."""
        vocabulary = logits.shape[-1]

        def column(numbers: Rows[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.tensor(numbers, dtype=dtype, device=logits.device)[:, None]

        settings = (settings_of(sequence, vocabulary) for sequence in sequences)
        keys, temperatures, top_k, top_p, min_p = zip(*settings, strict=True)
        return cls(
            logits / column(temperatures),
            column(keys, torch.int64),
            column(top_k, torch.int64),
            column(top_p),
            column(min_p),
        )

    def only(self, rows: Rows[int]) -> "Distributions":
        """Some of the rows."""
        if len(rows) == len(self.scores):
            return self
        return Distributions(*(part[rows] for part in (self.scores, self.keys, self.top_k, self.top_p, self.min_p)))

    @property
    def vocabulary(self) -> int:
        """Tokens to choose from."""
        return self.scores.shape[-1]

    def is_filtered(self) -> list[bool]:
        """For each row whether there are tokens that must not be drawn."""
        is_filtered: list[bool] = ((self.top_k < self.vocabulary) | (self.top_p < 1) | (self.min_p > 0))[:, 0].tolist()
        return is_filtered

    def is_judged_alone(self) -> list[bool]:
        """For each row whether a token's rank and the mass above it tell if the filters keep it.

        They do not where the nucleus is a share of the k best: that mass is known only when they are sorted.
        """
        is_judged_alone: list[bool] = ((self.top_k >= self.vocabulary) | (self.top_p >= 1))[:, 0].tolist()
        return is_judged_alone


def draw(distributions: Distributions) -> list[int]:
    """One token per row."""
    is_filtered, is_judged_alone = distributions.is_filtered(), distributions.is_judged_alone()
    ways = [
        (is_filtered, partial(_draw_from_best, width=NUM_CANDIDATES)),
        *((is_judged_alone, partial(_draw_from_all, attempt=attempt)) for attempt in range(MAX_ATTEMPTS)),
        (is_filtered, partial(_draw_from_best, width=distributions.vocabulary)),
    ]
    tokens = [0] * len(distributions.scores)
    waiting = list(range(len(tokens)))
    for suits, way in ways:
        rows = [row for row in waiting if suits[row]]
        if not rows:
            continue
        drawn, is_final = (column.tolist() for column in way(distributions.only(rows)))
        for row, token, final in zip(rows, drawn, is_final, strict=True):
            if final:
                tokens[row] = token
                waiting.remove(row)
    return tokens


def _draw_from_best(distributions: Distributions, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from the `width` best tokens.

    Returns:
        `[rows]` tokens, and `[rows]` whether no token outside of the best could have been drawn.
    """
    scores, top_k, top_p = distributions.scores, distributions.top_k, distributions.top_p
    vocabulary = distributions.vocabulary
    width = min(width, vocabulary)
    best, token_ids = scores.topk(width, dim=-1)
    ranks = torch.arange(width, device=scores.device)
    # With top-k the nucleus is a share of the k tokens' mass, otherwise of the whole vocabulary's.
    total = torch.where(
        top_k <= width,
        best.masked_fill(ranks >= top_k, float("-inf")).logsumexp(dim=-1, keepdim=True),
        # Not by logsumexp: at low temperatures most weights are denormal, for which exp takes twenty times as long.
        best[:, :1] - scores.softmax(dim=-1).amax(dim=-1, keepdim=True).log(),
    )
    probabilities = (best - total).exp().masked_fill(ranks >= top_k, 0.0)
    before = probabilities.cumsum(dim=-1) - probabilities
    # The best token is the first column, so that what min-p drops is a tail, as what top-k and top-p drop is.
    least = distributions.min_p * probabilities[:, :1]
    kept = probabilities.masked_fill(((before >= top_p) | (probabilities < least)) & (ranks > 0), 0.0)
    covers_nucleus = probabilities.sum(dim=-1, keepdim=True) >= top_p
    covers_min_p = (probabilities[:, -1:] < least) & ((top_k >= vocabulary) | (top_p >= 1))
    is_exact = (top_k <= width) | ((top_k >= vocabulary) & covers_nucleus) | covers_min_p
    return token_ids.gather(1, _choose(kept, distributions.keys, token_ids + _FROM_BEST))[:, 0], is_exact[:, 0]


def _draw_from_all(distributions: Distributions, attempt: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from the whole vocabulary, whatever the filters say: first a segment of it, then a token of that segment.

    Only for rows that are judged alone.

    Noise for 49,152 tokens costs more than the rest of a draw together; for the segments and one of them it is cheap.

    Returns:
        `[rows]` tokens, and `[rows]` whether the filters keep them. Those kept are distributed as they should be.
    """
    weights = distributions.scores.softmax(dim=-1)
    rows, vocabulary = weights.shape
    num_whole = vocabulary // SEGMENT
    whole = weights[:, : num_whole * SEGMENT].view(rows, num_whole, SEGMENT).sum(dim=-1)
    rest = weights[:, num_whole * SEGMENT :].sum(dim=-1, keepdim=True)
    segments = torch.cat([whole, rest], dim=-1)
    # Below the token ids, so that no segment has the noise of a token.
    numbers = torch.arange(-segments.shape[1], 0, device=weights.device)[None]
    segment = _choose(segments, distributions.keys, numbers - attempt * ATTEMPT)
    token_ids = segment * SEGMENT + torch.arange(SEGMENT, device=weights.device)
    inside = weights.gather(1, token_ids.clamp(max=vocabulary - 1)).masked_fill_(token_ids >= vocabulary, 0.0)
    drawn = token_ids.gather(1, _choose(inside, distributions.keys, token_ids + attempt * ATTEMPT))
    return drawn[:, 0], _is_kept(distributions, weights, drawn)


def _is_kept(distributions: Distributions, weights: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Whether the filters keep `drawn` `[rows, 1]`: `[rows]`. `weights` are all probabilities."""
    if not any(distributions.is_filtered()):
        return torch.ones(len(drawn), dtype=torch.bool, device=drawn.device)
    weight = weights.gather(1, drawn)
    is_above = weights > weight
    is_best = is_above.sum(dim=-1, keepdim=True) < distributions.top_k
    top_p = distributions.top_p
    is_in_nucleus = (top_p >= 1) | ((weights * is_above).sum(dim=-1, keepdim=True) < top_p)
    is_likely = weight >= distributions.min_p * weights.amax(dim=-1, keepdim=True)
    # The most likely token is kept in any case.
    return (is_best & is_in_nucleus & is_likely | ~is_above.any(dim=-1, keepdim=True))[:, 0]


def _choose(weights: torch.Tensor, keys: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """One column `[rows, 1]` for each row of `weights` `[rows, n]`, drawn by its weight, which is over 0."""
    return (weights.double().log() + gumbel(keys, counters)).argmax(dim=-1, keepdim=True)
