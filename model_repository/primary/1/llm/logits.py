"""What a request asks to be changed in a row of logits before a token is drawn from it. Engine thread."""

from collections.abc import Iterable

import torch

from llm.request import SamplingParams, TokenConstraint


class LogitsRule:
    """One choice's biases, penalties, constraint and shortest length, and what they have to remember of its tokens.

    Order and formulas are those of vLLM: bias, repetition (CTRL, arXiv 1909.05858), frequency and presence (OpenAI).
    The constraint's mask comes before them, for all rows at once: see `token_mask`.

    Args:
        sampling: what the request asks for.
        prompt_token_ids: the prompt's tokens, which count as repeated.
        end_token_ids: tokens that may not be drawn before `min_tokens`.
        constraint: which tokens may be drawn at all.
    """

    def __init__(
        self,
        sampling: SamplingParams,
        prompt_token_ids: Iterable[int],
        end_token_ids: frozenset[int],
        constraint: TokenConstraint | None = None,
    ) -> None:
        self.constraint = constraint
        self._sampling = sampling
        self._end_token_ids = sorted(end_token_ids)
        self._num_generated = 0
        # Tokens of the answer with their counts, and of the prompt: as they come, until a row says on which device
        # they are to be counted.
        self._prompt: Iterable[int] | None = prompt_token_ids
        self._pending: list[int] = []
        self._counts = torch.empty(0)
        self._is_repeated = torch.empty(0)

    @staticmethod
    def is_needed(sampling: SamplingParams) -> bool:
        """Whether the request asks for any of this, a constraint aside."""
        return bool(sampling.logit_bias or sampling.min_tokens or LogitsRule._has_penalty(sampling))

    @staticmethod
    def _has_penalty(sampling: SamplingParams) -> bool:
        return (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0)

    def advance(self, token_id: int) -> None:
        """Take note of a token that was drawn."""
        self._num_generated += 1
        if self._has_penalty(self._sampling):
            self._pending.append(token_id)
        if self.constraint is not None:
            self.constraint.advance(token_id)

    def apply(self, row: torch.Tensor) -> None:
        """Change the logits `[vocabulary]` in place."""
        if self._sampling.logit_bias:
            ids, biases = zip(*self._sampling.logit_bias, strict=True)
            row.index_add_(0, torch.tensor(ids, device=row.device), torch.tensor(biases, device=row.device))
        if self._has_penalty(self._sampling):
            self._count(row)
            self._penalise(row)
        is_complete = self.constraint is not None and self.constraint.must_end
        if self._num_generated < self._sampling.min_tokens and not is_complete:
            row[self._end_token_ids] = float("-inf")

    def _count(self, row: torch.Tensor) -> None:
        if self._prompt is not None:
            self._counts = torch.zeros_like(row)
            self._is_repeated = torch.zeros_like(row, dtype=torch.bool)
            self._is_repeated[list(self._prompt)] = True
            self._prompt = None
        for token_id in self._pending:
            self._counts[token_id] += 1
            self._is_repeated[token_id] = True
        self._pending.clear()

    def _penalise(self, row: torch.Tensor) -> None:
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            penalty = sampling.repetition_penalty
            row.copy_(torch.where(self._is_repeated, torch.where(row > 0, row / penalty, row * penalty), row))
        if sampling.frequency_penalty:
            row.sub_(self._counts, alpha=sampling.frequency_penalty)
        if sampling.presence_penalty:
            row.sub_((self._counts > 0).to(row.dtype), alpha=sampling.presence_penalty)
