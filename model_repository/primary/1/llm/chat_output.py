"""An assistant's text as it grows, taken apart: thoughts, words, calls of tools. Responder thread; knows no tokens.

However the text is split over pushes, the parts add up to the same.
"""

from dataclasses import dataclass, field
from typing import Protocol

from llm.reasoning import ReasoningTags
from llm.text_stream import overlap
from llm.tool_format import ToolFormat
from llm.tool_reader import ToolCallPart, ToolReader


@dataclass
class Parts:
    """What a push brought."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallPart] = field(default_factory=list)


class Output(Protocol):
    """Takes one choice's text apart."""

    def push(self, text: str, *, is_last: bool = False, is_cut: bool = False) -> Parts:
        """Add text; with the last comes everything that was held back.

        `is_cut`: the last text is not the end that the model meant.
        """


class ChatOutput:
    """An `Output` by tags of thoughts and a form of calls.

    Args:
        tags: how the model marks its thoughts; None: it has none.
        is_reasoning: whether the prompt has begun them.
        form: how it writes calls; None: everything else is words.
    """

    def __init__(self, tags: ReasoningTags | None, *, is_reasoning: bool, form: ToolFormat | None) -> None:
        self._tags = tags
        self._tools = None if form is None else ToolReader(form)
        self._stage = "reasoning" if is_reasoning else ("start" if tags else "answer")
        self._held = ""

    def push(self, text: str, *, is_last: bool = False, is_cut: bool = False) -> Parts:
        """See `Output`."""
        parts = Parts()
        self._held += text
        if self._stage == "start":
            self._look_for_reasoning(is_last)
        if self._stage == "reasoning":
            assert self._tags is not None
            parts.reasoning = self._until(self._tags.end, is_last)
        if self._stage == "gap":
            self._held = self._held.lstrip("\n")
            self._stage = "answer" if self._held else "gap"
        if self._stage == "answer":
            answer, self._held = self._held, ""
            if self._tools is None:
                parts.text = answer
            else:
                parts.text, parts.tool_calls = self._tools.push(answer, is_last=is_last, is_cut=is_cut)
        return parts

    def _look_for_reasoning(self, is_last: bool) -> None:
        assert self._tags is not None
        begun = self._held.lstrip()
        if begun.startswith(self._tags.begin):
            self._held = begun[len(self._tags.begin) :]
            self._stage = "reasoning"
        elif is_last or not self._tags.begin.startswith(begun):
            self._stage = "answer"

    def _until(self, mark: str, is_last: bool) -> str:
        before, found, after = self._held.partition(mark)
        if found:
            self._held, self._stage = after, "gap"
            return before
        keep = 0 if is_last else overlap(self._held, mark)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said
