"""Draws each sequence's next token. Stateless; runs on the engine thread.

A draw depends on the row's logits, its settings, and noise made from (seed, position, token), so a seed reproduces its
text whatever else is in the batch. Filters apply in the order temperature, top-k, top-p, min-p, as in transformers.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from llm.errors import EngineError, GenerationError
from llm.noise import draw_key, gumbel
from llm.request import TokenLogprobs
from llm.sequence import Sequence
from llm.token_mask import TokenMasks

# How many of the best tokens are sorted, one after the other, until they hold what may be drawn: sorting 64 candidates
# instead of a vocabulary of 49,152 makes a draw of 32 rows cheap, and most nuclei are narrower still.
NUM_CANDIDATES = (64, 1024)
# Tokens per segment of the vocabulary in an unfiltered draw.
SEGMENT = 256

# Lower ones draw the same token, because the logits' own float32 is coarser; but dividing by one near 0 gives infinity
# and NaN, which would fail everybody in the pass.
MIN_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class Draw:
    """A row's next token, with log probabilities if its sequence asks for them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


class Sampler:
    """Turns logits into tokens, each row by its own settings."""

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> list[Draw | GenerationError]:
        """Draw one token per row.

        Args:
            logits: `[rows, vocabulary]` float32; may be changed.
            sequences: the rows' owners; the drawn token will stand at position `len(token_ids)`.

        Returns:
            For each row its draw; an error where the model's logits are no numbers, or a constraint fails.
        """
        masks = TokenMasks(sequences, logits.shape[-1])
        is_usable = logits.sum(dim=-1).isfinite()
        if not is_usable.all():
            logits = logits.masked_fill(~is_usable[:, None], 0.0)
        reported = [i for i, sequence in enumerate(sequences) if sequence.logprobs is not None]
        scores = logits[reported].log_softmax(dim=-1) if reported else logits
        masks.apply(logits)
        for row, sequence in zip(logits, sequences, strict=True):
            if sequence.logits_rule is not None:
                sequence.logits_rule.apply(row)
        tokens = _draw_all(logits, sequences)
        draws: list[Draw | GenerationError] = [Draw(token) for token in tokens]
        for row, i in zip(scores, reported, strict=False):
            draws[i] = Draw(tokens[i], _report(row, tokens[i], sequences[i].logprobs or 0))
        for i, usable in enumerate(is_usable.tolist()):
            if not usable:
                draws[i] = EngineError("The model computed no usable numbers for this request.")
        for i, failure in masks.failures.items():
            draws[i] = failure
        return draws


def _draw_all(logits: torch.Tensor, sequences: Rows[Sequence]) -> list[int]:
    tokens = logits.argmax(dim=-1).tolist() if any(s.temperature == 0 for s in sequences) else [0] * len(sequences)
    plain = [i for i, s in enumerate(sequences) if s.temperature > 0 and not _is_filtered(s)]
    filtered = [i for i, s in enumerate(sequences) if s.temperature > 0 and _is_filtered(s)]
    for rows, draw in ((plain, _draw), (filtered, _draw_filtered)):
        if rows:
            chosen = [sequences[i] for i in rows]
            temperatures = _column(logits, [max(s.temperature, MIN_TEMPERATURE) for s in chosen])
            keys = _column(logits, [draw_key(s.seed, len(s.token_ids)) for s in chosen], torch.int64)
            mine = logits if len(rows) == len(sequences) else logits[rows]
            for row, token in zip(rows, draw(mine / temperatures, chosen, keys), strict=True):
                tokens[row] = token
    return tokens


def _report(scores: torch.Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    best, ids = scores.topk(min(num_top, len(scores)))
    top = tuple(zip(ids.tolist(), best.tolist(), strict=True))
    return TokenLogprobs(token_id, float(scores[token_id]), top)


def _is_filtered(sequence: Sequence) -> bool:
    return sequence.top_p < 1 or sequence.top_k > 0 or sequence.min_p > 0


def _column(like: torch.Tensor, numbers: Rows[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype, device=like.device)[:, None]


def _draw(scores: torch.Tensor, _: Rows[Sequence], keys: torch.Tensor) -> list[int]:
    """Draw from the whole vocabulary: first a segment of it, then a token of that segment.

    Noise for 49,152 tokens costs more than the rest of a draw together; for the segments and one of them it is cheap.
    """
    weights = scores.softmax(dim=-1)
    rows, vocabulary = weights.shape
    num_whole = vocabulary // SEGMENT
    whole = weights[:, : num_whole * SEGMENT].view(rows, num_whole, SEGMENT).sum(dim=-1)
    rest = weights[:, num_whole * SEGMENT :].sum(dim=-1, keepdim=True)
    segments = torch.cat([whole, rest], dim=-1)
    # Below the token ids, so that no segment has the noise of a token.
    numbers = torch.arange(-segments.shape[1], 0, device=scores.device)[None]
    segment = _choose(segments, keys, numbers)
    token_ids = segment * SEGMENT + torch.arange(SEGMENT, device=scores.device)
    inside = weights.gather(1, token_ids.clamp(max=vocabulary - 1)).masked_fill_(token_ids >= vocabulary, 0.0)
    return token_ids.gather(1, _choose(inside, keys, token_ids))[:, 0].tolist()


def _draw_filtered(scores: torch.Tensor, sequences: Rows[Sequence], keys: torch.Tensor) -> list[int]:
    vocabulary = scores.shape[-1]
    tokens = [0] * len(sequences)
    rows = list(range(len(sequences)))
    for width in (*(num for num in NUM_CANDIDATES if num < vocabulary), vocabulary):
        mine = scores if len(rows) == len(sequences) else scores[rows]
        drawn, is_exact = _draw_from_top(mine, [sequences[row] for row in rows], keys[rows], width)
        for row, token in zip(rows, drawn, strict=True):
            tokens[row] = token
        rows = [row for row, exact in zip(rows, is_exact, strict=True) if not exact]
        if not rows:
            break
    return tokens


def _draw_from_top(
    scores: torch.Tensor, sequences: Rows[Sequence], keys: torch.Tensor, width: int
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
    # The best token is the first column, so that what min-p drops is a tail, as what top-k and top-p drop is.
    least = _column(scores, [s.min_p for s in sequences]) * probabilities[:, :1]
    kept = probabilities.masked_fill(((before >= top_p) | (probabilities < least)) & (ranks > 0), 0.0)
    covers_nucleus = probabilities.sum(dim=-1, keepdim=True) >= top_p
    covers_min_p = (probabilities[:, -1:] < least) & ((top_k >= vocabulary) | (top_p >= 1))
    is_exact = (top_k <= width) | ((top_k >= vocabulary) & covers_nucleus) | covers_min_p
    drawn = token_ids.gather(1, _choose(kept, keys, token_ids))
    return drawn[:, 0].tolist(), is_exact[:, 0].tolist()


def _choose(weights: torch.Tensor, keys: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """One column `[rows, 1]` for each row of `weights` `[rows, n]`, drawn by its weight, which is over 0."""
    return (weights.double().log() + gumbel(keys, counters)).argmax(dim=-1, keepdim=True)
