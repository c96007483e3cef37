"""One choice of a request on its way through the scheduler. Owned by the engine thread."""

from copy import copy
from dataclasses import dataclass, field

from llm.logits import LogitsRule
from llm.prompt_lookup import PromptLookup
from llm.request import FinishReason, Submission


@dataclass(eq=False)
class Sequence:
    """Tokens so far, and how many of them have their keys and values in the cache.

    Attributes:
        token_ids: the prompt, then what has been generated.
        max_length: length of `token_ids` at which the answer is cut.
        end_token_ids: tokens that end it: the model's own and the request's.
        logits_rule: what the request asks to be changed in the logits; None: nothing.
        logprobs: how many of the most likely tokens to report; None: no log probabilities at all.
        num_computed: leading tokens whose keys and values lie in `block_table`'s blocks.
        num_reused: leading tokens that were in the cache already when the sequence first got its place.
        block_table: cache blocks in order of position.
        block_names: content names of the leading full blocks of `token_ids`, as far as they have been needed.
        lookup: drafts of its next tokens.
    """

    submission: Submission
    index: int
    token_ids: list[int]
    max_length: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    end_token_ids: frozenset[int]
    min_p: float = 0.0
    logits_rule: LogitsRule | None = None
    logprobs: int | None = None
    num_computed: int = 0
    num_reused: int | None = None
    block_table: list[int] = field(default_factory=list)
    block_names: list[bytes] = field(default_factory=list)
    lookup: PromptLookup = field(default_factory=PromptLookup)

    def going_on(self, token_ids: list[int]) -> "Sequence":
        """The same one, in the same blocks, if these were its next tokens."""
        continued = copy(self)
        continued.token_ids = [*self.token_ids, *token_ids]
        return continued

    @property
    def num_uncomputed(self) -> int:
        """Tokens that the next forward passes still have to compute."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.token_ids) - len(self.submission.request.prompt_token_ids)

    def append(self, token_id: int) -> FinishReason | None:
        """Add a sampled token; says whether, and why, it was the last one."""
        self.token_ids.append(token_id)
        if self.logits_rule is not None:
            self.logits_rule.advance(token_id)
        if token_id in self.end_token_ids:
            return "stop"
        if len(self.token_ids) >= self.max_length:
            return "length"
        return None
