"""Models that think aloud before they answer: the tags around it, and grammars that begin behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm.request import TokenConstraint

if TYPE_CHECKING:
    import numpy as np

# How far back from a prompt's end its template may have opened, or closed, the thinking.
_TAIL = 8

_PAIRS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True)
class ReasoningTags:
    """The tags as text and as tokens of their own."""

    begin: str
    end: str
    begin_id: int
    end_id: int

    def is_opened(self, prompt_token_ids: Sequence[int]) -> bool:
        """Whether the template has begun the thinking already."""
        return self._last(prompt_token_ids) == self.begin_id

    def is_closed(self, prompt_token_ids: Sequence[int]) -> bool:
        """Whether the template has ended it, so that the answer follows at once."""
        return self._last(prompt_token_ids) == self.end_id

    def _last(self, prompt_token_ids: Sequence[int]) -> int | None:
        tail = reversed(prompt_token_ids[-_TAIL:])
        return next((token_id for token_id in tail if token_id in (self.begin_id, self.end_id)), None)


def detect(vocabulary: dict[str, int], template: str) -> ReasoningTags | None:
    """The tags of a model whose chat template knows them as tokens; None: it does not think aloud."""
    for begin, end in _PAIRS:
        if begin in vocabulary and end in vocabulary and end in template:
            return ReasoningTags(begin, end, vocabulary[begin], vocabulary[end])
    return None


class AfterReasoning:
    """Lets a model think freely, then holds it to a constraint. A `request.TokenConstraint`.

    Args:
        inner: what the answer is held to.
        is_open: whether the prompt has begun the thinking; otherwise the first token may begin it.
        end_token_ids: tokens that may not end the answer before it has begun.
    """

    def __init__(
        self, inner: TokenConstraint, tags: ReasoningTags, *, is_open: bool, end_token_ids: frozenset[int]
    ) -> None:
        self._inner = inner
        self._tags = tags
        self._is_open = is_open
        self._is_first = True
        self._end_token_ids = end_token_ids

    @property
    def must_end(self) -> bool:
        """See `request.TokenConstraint`."""
        return not self._is_open and self._inner.must_end

    def fill(self, mask: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        """See `request.TokenConstraint`."""
        if self._is_open:
            mask.fill(-1)
            for token_id in self._end_token_ids:
                mask.view("uint8")[token_id // 8] &= 255 - (1 << token_id % 8)
            return
        self._inner.fill(mask)
        if self._is_first:
            mask.view("uint8")[self._tags.begin_id // 8] |= 1 << self._tags.begin_id % 8

    def advance(self, token_id: int) -> None:
        """See `request.TokenConstraint`."""
        if self._is_open:
            self._is_open = token_id != self._tags.end_id
        elif self._is_first and token_id == self._tags.begin_id:
            self._is_open = True
        else:
            self._inner.advance(token_id)
        self._is_first = False
