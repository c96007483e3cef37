"""What a model can serve: which requests are refused, and what becomes of those that are not. Imports no torch."""

import secrets
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import TypeVar

from llm.errors import ContextLengthError, InvalidRequestError
from llm.logits import LogitsRule
from llm.noise import choice_seed
from llm.request import GenerationRequest, SamplingParams, Submission
from llm.sequence import Sequence

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """What the engine has to know of its model.

    Attributes:
        max_model_len: prompt plus answer at the most, in tokens; the cache can hold as much.
        vocabulary_size: token ids lie below it.
        end_token_ids: tokens that end an answer.
        defaults: what stands in for sampling parameters that a request leaves open.
    """

    max_model_len: int
    vocabulary_size: int
    end_token_ids: frozenset[int]
    defaults: SamplingParams

    def check(self, request: GenerationRequest) -> None:
        """Refuse a request that the model could never serve.

        Raises:
            ContextLengthError: the prompt leaves no room for a token.
            InvalidRequestError: it asks for tokens that do not exist.
        """
        if len(request.prompt_token_ids) >= self.max_model_len:
            raise ContextLengthError(len(request.prompt_token_ids), self.max_model_len)
        self.check_ids("input_ids", request.prompt_token_ids)
        self.check_ids("logit_bias", [token_id for token_id, _ in request.sampling.logit_bias])
        self.check_ids("stop_token_ids", request.sampling.stop_token_ids)

    def check_ids(self, param: str, token_ids: Rows[int]) -> None:
        """Refuse tokens that are not in the model's vocabulary.

        Raises:
            InvalidRequestError: naming `param` and the first of them.
        """
        size = self.vocabulary_size
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < size):
            strange = next(token_id for token_id in token_ids if not 0 <= token_id < size)
            raise InvalidRequestError(f"{param} names token {strange}, but the model has {size} tokens.", param=param)

    def sequences(self, submission: Submission) -> list[Sequence]:
        """One for each choice of a request, with what it leaves open filled in."""
        request, sampling, defaults = submission.request, submission.request.sampling, self.defaults
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        room = self.max_model_len - len(request.prompt_token_ids)
        # A grammar's end is written as an end token, which then ends the answer in any case.
        ignores_end = sampling.ignore_eos and not request.constraints
        end_token_ids = frozenset(sampling.stop_token_ids) | (frozenset() if ignores_end else self.end_token_ids)
        return [
            Sequence(
                submission=submission,
                index=index,
                token_ids=list(request.prompt_token_ids),
                max_length=len(request.prompt_token_ids) + min(sampling.max_tokens or room, room),
                temperature=_first(sampling.temperature, defaults.temperature, 1.0),
                top_p=_first(sampling.top_p, defaults.top_p, 1.0),
                top_k=_first(sampling.top_k, defaults.top_k, 0),
                seed=choice_seed(seed, index),
                end_token_ids=end_token_ids,
                min_p=sampling.min_p,
                logits_rule=_rule_for(request, index, end_token_ids),
                logprobs=sampling.logprobs,
            )
            for index in range(sampling.n)
        ]


def _first(value: T | None, default: T | None, fallback: T) -> T:
    return next(v for v in (value, default, fallback) if v is not None)


def _rule_for(request: GenerationRequest, index: int, end_token_ids: frozenset[int]) -> LogitsRule | None:
    constraint = request.constraints[index] if request.constraints else None
    if constraint is None and not LogitsRule.is_needed(request.sampling):
        return None
    return LogitsRule(request.sampling, request.prompt_token_ids, end_token_ids, constraint)
