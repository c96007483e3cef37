"""Calls of tools in a text as it grows, told from its words. Responder thread.

However the text is split over pushes, words and calls add up to the same.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from llm.text_stream import overlap
from llm.tool_format import ToolFormat

# Longer than any name of a tool with what stands around it: by then it must be clear that a call has begun.
_MAX_HEAD = 300


@dataclass
class ToolCallPart:
    """A piece of call number `index`: its name, which comes first and once, or more of its arguments (JSON)."""

    index: int
    name: str | None = None
    arguments: str = ""


class ToolReader:
    """Reads one choice's answer. What looks like a call and is none comes out as words.

    Args:
        form: how the model writes calls.
    """

    def __init__(self, form: ToolFormat) -> None:
        self._form = form
        self._begin: str | None = form.begin.strip()  # None: nothing makes a call of what follows
        self._end = form.end.strip()
        self._head = _head(form)
        self._stage: Literal["start", "words", "head", "arguments", "tail"] = "words" if self._begin else "start"
        self._held = ""
        self._is_cut = False
        self._num_calls = 0
        self._object = _ObjectEnd()
        self._words = ""
        self._parts: list[ToolCallPart] = []

    def push(self, text: str, *, is_last: bool, is_cut: bool = False) -> tuple[str, list[ToolCallPart]]:
        """Add text; returns what is certain of it now. With the last comes everything that was held back.

        `is_cut` says that the last is not the end that the model meant: a call that has no name yet is left out.
        """
        self._held += text
        self._is_cut = is_cut
        while self._step(is_last):
            pass
        words, self._words = self._words, ""
        parts, self._parts = self._parts, []
        return words, parts

    def _step(self, is_last: bool) -> bool:
        """Read on; says whether the next step may find something to do."""
        match self._stage:
            case "start":
                return self._start(is_last)
            case "words":
                return self._read_words(is_last)
            case "head":
                return self._read_head(is_last)
            case "arguments":
                return self._read_arguments()
            case "tail":
                return self._read_tail()

    def _start(self, is_last: bool) -> bool:
        """A form without a mark: the answer is a call if it begins as one."""
        begun = self._held.lstrip()
        if not begun and not is_last:
            return False
        if begun.startswith("{"):
            self._stage = "head"
        else:
            self._stage, self._begin = "words", None
        return True

    def _read_words(self, is_last: bool) -> bool:
        if self._num_calls:
            self._held = self._held.lstrip("\n")  # lines between calls are part of the form, not of the answer
        if self._begin:
            before, found, after = self._held.partition(self._begin)
            if found:
                self._words += before.rstrip("\n")
                self._held, self._stage = after, "head"
                return True
        # Words may end like the beginning of a mark; behind a call nothing but another one is likely to.
        is_certain = is_last and not (self._is_cut and self._num_calls)
        keep = 0 if is_certain or not self._begin else _uncertain(self._held, self._begin)
        at = len(self._held) - keep
        self._words += self._held[:at]
        self._held = self._held[at:]
        return False

    def _read_head(self, is_last: bool) -> bool:
        if self._form.is_list and not self._num_calls:
            self._held = self._held.lstrip().removeprefix("[")
        if head := self._head.match(self._held):
            name = head[1] if self._form.middle else str(json.loads(head[1]))
            self._parts.append(ToolCallPart(self._num_calls, name=name))
            self._held, self._stage, self._object = self._held[head.end() :], "arguments", _ObjectEnd()
            return True
        if is_last and self._is_cut:
            return False
        if self._form.middle:
            is_hopeless = is_last or len(self._held) > _MAX_HEAD
            return self._give_up() if is_hopeless else False
        return self._read_whole_call(is_last)

    def _read_whole_call(self, is_last: bool) -> bool:
        """A call with its keys in another order, read once it is complete; or none at all."""
        found = _leading_object(self._held)
        if found is None:
            return self._give_up() if is_last else False
        call, length = found
        arguments = call.get(self._form.arguments_key, call.get("arguments", {}))
        if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
            return self._give_up()
        written = json.dumps(arguments, ensure_ascii=False)
        self._parts.append(ToolCallPart(self._num_calls, name=call["name"], arguments=written))
        self._num_calls += 1
        self._held, self._stage = "}" + self._held[length:], "tail"
        return True

    def _give_up(self) -> bool:
        """What was held for a call goes out as words, its mark included."""
        self._words += self._begin or ""
        self._stage = "words"
        if not self._form.begin:
            self._begin = None
        return True

    def _read_arguments(self) -> bool:
        length = self._object.find(self._held)
        arguments = self._held[:length]
        if arguments:
            self._parts.append(ToolCallPart(self._num_calls, arguments=arguments))
        self._held = self._held[len(arguments) :]
        if length is None:
            return False
        self._num_calls += 1
        self._stage = "tail"
        if self._form.middle:
            self._held = "}" + self._held
        return True

    def _read_tail(self) -> bool:
        """What stands behind the arguments: the call's brace, the end mark or a separator."""
        rest = self._held.lstrip().removeprefix("}").lstrip()
        is_short = not rest or (len(rest) < len(self._end) and self._end.startswith(rest))
        if is_short:
            return False  # a mark that is cut off stays away
        if not self._end and rest[:1] in (",", ";"):
            self._held, self._stage = rest[1:], "head"
            return True
        self._held, self._stage = rest.removeprefix(self._end or "]"), "words"
        if not self._form.begin:
            self._begin = None
        return True


class _ObjectEnd:
    """Finds the brace that closes a JSON object which is given piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def find(self, text: str) -> int | None:
        """Length of `text` up to and with that brace; None if it is not in it."""
        for at, letter in enumerate(text):
            if self._in_string:
                self._in_string = letter != '"' or self._is_escaped
                self._is_escaped = letter == "\\" and not self._is_escaped
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1
        return None


def _head(form: ToolFormat) -> re.Pattern[str]:
    """What stands before the arguments, with the name as its group."""
    if form.middle:
        return re.compile(rf"\s*([\w.-]+)\s*{re.escape(form.middle)}\s*(?={{)")
    key = re.escape(form.arguments_key)
    return re.compile(rf'\s*{{\s*"name"\s*:\s*("[\w.-]+")\s*,\s*"{key}"\s*:\s*(?={{)')


def _leading_object(text: str) -> tuple[dict[str, Any], int] | None:
    """The JSON object that `text` begins with, and its length; None while it is open; ({}, 0) if there is none."""
    begun = text.lstrip()
    if begun and begun[0] != "{":
        return {}, 0
    try:
        value, end = json.JSONDecoder().raw_decode(begun)
    except (ValueError, RecursionError):
        return None
    return value, len(text) - len(begun) + end


def _uncertain(text: str, mark: str) -> int:
    """How much of the end of `text` may turn out to be the beginning of `mark`, or blank lines before it."""
    partial = overlap(text, mark)
    before = text[: len(text) - partial]
    return partial + len(before) - len(before.rstrip("\n"))
