"""An assistant's text taken apart by the tokenizer's own response template, for forms that `tool_format` has none of.

transformers reads it: https://huggingface.co/docs/transformers/main/chat_response_parsing. Responder thread.
"""

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from transformers.utils.chat_parsing.response_parser import ResponseParser
from transformers.utils.chat_parsing.response_templates import ResponseTemplate, load_response_template

from llm.chat_output import Parts
from llm.tool_format import Tool
from llm.tool_reader import ToolCallPart

log = logging.getLogger(__name__)

_REASONING = ("thinking", "reasoning", "reasoning_content")


def load(tokenizer: Any) -> ResponseTemplate | None:
    """The tokenizer's response template; None: it has none, or none that can be used."""
    template = getattr(tokenizer, "response_template", None)
    if template is None:
        return None
    try:
        return load_response_template(template)
    except ValueError as error:
        log.warning("the tokenizer's response template cannot be used: %s", error)
        return None


class TemplateOutput:
    """A `chat_output.Output`. Words and thoughts come as they are written, a call comes whole.

    What begins as a call and is none comes out as words, without the marks around it, and with all that follows it.

    Args:
        template: what takes the text apart.
        prompt: the end of the prompt, which may have begun the answer.
        tools: what may be called.
    """

    def __init__(self, template: ResponseTemplate, prompt: str, tools: Sequence[Tool]) -> None:
        self._parser: ResponseParser | None = ResponseParser(template, prompt, tools=list(tools))
        self._num_calls = 0
        self._unread = ""  # of a region that is understood when it is whole

    def push(self, text: str, *, is_last: bool = False, is_cut: bool = False) -> Parts:  # noqa: ARG002
        """See `chat_output.Output`."""
        parts = Parts()
        # The parser forgets what a call of it has found when it fails: it gets a letter at a time.
        for at, letter in enumerate(text):
            if self._parser is None:
                parts.text += text[at:]
                break
            self._try(partial(self._parser.feed, letter), parts)
        if is_last and self._parser is not None:
            parser = self._parser
            self._try(lambda: parser.finalize()[1], parts)
        return parts

    def _try(self, step: Callable[[], list[dict[str, Any]]], parts: Parts) -> None:
        try:
            self._take(step(), parts)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            log.info("an answer does not follow its model's response template: %s", error)
            parts.text += self._unread
            self._parser = None

    def _take(self, events: list[dict[str, Any]], parts: Parts) -> None:
        for event in events:
            match event:
                case {"type": "region_open"}:
                    self._unread = ""
                case {"type": "region_chunk", "dirty": True, "text": text}:
                    self._unread += text
                case {"type": "region_chunk", "field": field, "text": text} if field in _REASONING:
                    parts.reasoning += text
                case {"type": "region_chunk", "text": text}:
                    parts.text += text
                case {"type": "region_close", "field": "tool_calls", "value": value}:
                    self._unread = ""
                    for call in value if isinstance(value, list) else [value]:
                        parts.tool_calls.append(self._call(call["function"]))

    def _call(self, function: dict[str, Any]) -> ToolCallPart:
        arguments = function.get("arguments") or {}
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        part = ToolCallPart(self._num_calls, str(function["name"]), written)
        self._num_calls += 1
        return part
