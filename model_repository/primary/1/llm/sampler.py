"""Draws each sequence's next token. Stateless; runs on the engine thread.

A draw depends on the row's logits, its settings, and noise made from (seed, position, token), so a seed reproduces its
text whatever else is in the batch.
"""

from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import partial

import torch

from llm.drawing import MISSED, Distributions, draw, is_judged_alone
from llm.errors import EngineError, GenerationError
from llm.request import TokenLogprobs
from llm.sequence import Sequence
from llm.token_mask import TokenMasks

NO_NUMBERS = "The model computed no usable numbers for this request."


@dataclass(frozen=True)
class Draw:
    """A row's next token, with log probabilities if its sequence asks for them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


# Waits for the draws: one token per row, or why there is none; only that row's request fails.
Drawing = Callable[[], list[Draw | GenerationError]]


class Sampler:
    """Turns logits into tokens, each row by its own settings."""

    def start(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> Drawing:
        """See `llm.engine.TokenSampler`; nothing is done before the draws are asked for."""
        return partial(self.sample, logits, sequences)

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> list[Draw | GenerationError]:
        """Draw one token per row.

        Args:
            logits: `[rows, vocabulary]`; may be changed if they are float32.
            sequences: the rows' owners; the drawn token will stand at position `len(token_ids)`.

        Returns:
            For each row its draw; an error where the model's logits are no numbers, or a constraint fails.
        """
        masks = TokenMasks(sequences, logits.shape[-1])
        logits = logits.float()
        is_usable = logits.sum(dim=-1).isfinite()
        if not is_usable.all():
            logits = logits.masked_fill(~is_usable[:, None], 0.0)
        reported = [i for i, sequence in enumerate(sequences) if sequence.logprobs is not None]
        scores = logits[reported].log_softmax(dim=-1) if reported else logits
        masks.apply(logits)
        for row, sequence in zip(logits, sequences, strict=True):
            if sequence.logits_rule is not None:
                sequence.logits_rule.apply(row)
        tokens = _choose_all(logits, sequences)
        draws: list[Draw | GenerationError] = [Draw(token) for token in tokens]
        for row, i in zip(scores, reported, strict=False):
            draws[i] = Draw(tokens[i], _report(row, tokens[i], sequences[i].logprobs or 0))
        for i, usable in enumerate(is_usable.tolist()):
            if not usable:
                draws[i] = EngineError(NO_NUMBERS)
        for i, failure in masks.failures.items():
            draws[i] = failure
        return draws


def _choose_all(logits: torch.Tensor, sequences: Rows[Sequence]) -> list[int]:
    tokens = logits.argmax(dim=-1).tolist() if any(s.temperature == 0 for s in sequences) else [0] * len(sequences)
    rows = [row for row, sequence in enumerate(sequences) if sequence.temperature > 0]
    if logits.device.type == "cpu":
        rows = _draw_alone(logits, sequences, rows, tokens)
    if rows:
        mine = logits if len(rows) == len(sequences) else logits[rows]
        drawn = draw(Distributions.of(mine, [sequences[row] for row in rows]))
        for row, token in zip(rows, drawn, strict=True):
            tokens[row] = token
    return tokens


def _draw_alone(logits: torch.Tensor, sequences: Rows[Sequence], rows: list[int], tokens: list[int]) -> list[int]:
    """Put the tokens of some rows into `tokens`; return those that still have none."""
    from llm.cpu_drawing import draw_alone  # compiles, which a GPU does not need

    alone = [row for row in rows if is_judged_alone(sequences[row])]
    missed = set(rows).difference(alone)
    for row, token in zip(alone, draw_alone(logits, sequences, alone) if alone else [], strict=True):
        tokens[row] = token
        if token == MISSED:
            missed.add(row)
    return sorted(missed)


def _report(scores: torch.Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    best, ids = scores.topk(min(num_top, len(scores)))
    top = tuple(zip(ids.tolist(), best.tolist(), strict=True))
    return TokenLogprobs(token_id, float(scores[token_id]), top)
