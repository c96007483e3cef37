"""The items that a response is asked with, as turns of a conversation: OpenAI's `input` in, chat messages out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from proxy.chat_message import ChatMessage, MessageFunction, MessageToolCall
from proxy.errors import InvalidRequestError

_TEXTS = ("input_text", "output_text", "text")


class InputPart(msgspec.Struct):
    """A part of an item's content; only text, and what was refused in words, can be read by the models served here."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(msgspec.Struct):
    """A message, a call of a function, what the function said, or thoughts; without a `type` it is a message.

    The fields are those of all kinds together: a message has `role` and `content`, a `function_call` has `call_id`,
    `name` and `arguments`, a `function_call_output` has `call_id` and `output`.
    """

    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None


def messages(given: str | Sequence[InputItem], instructions: str | None) -> list[ChatMessage]:
    """The conversation: `instructions` first, and calls in the turn of the assistant that made them.

    Thoughts of earlier turns are left out, as chat templates do.

    Raises:
        InvalidRequestError: an item is of a kind that cannot be read here, or lacks what its kind has.
    """
    turns = [] if instructions is None else [ChatMessage("system", instructions)]
    if isinstance(given, str):
        return [*turns, ChatMessage("user", given)]
    for at, item in enumerate(given):
        where = f"input[{at}]"
        match item.type:
            case None | "message":
                turns.append(_message(item, where))
            case "function_call":
                if not turns or turns[-1].role != "assistant":
                    turns.append(ChatMessage("assistant", tool_calls=[]))
                turns[-1].tool_calls = [*(turns[-1].tool_calls or []), _call(item, where)]
            case "function_call_output":
                call_id = _needed(item.call_id, f"{where}.call_id")
                said = _text(item.output, f"{where}.output")
                turns.append(ChatMessage("tool", said, tool_call_id=call_id))
            case "reasoning":
                pass
            case _:
                raise _refusal(f"'{where}' is of type {item.type!r:.100}, which cannot be read here.")
    if not turns:
        raise _refusal("'input' holds no turn of a conversation.")
    return turns


def _message(item: InputItem, where: str) -> ChatMessage:
    if item.role is None:
        raise _refusal(f"'{where}.role' is missing.")
    return ChatMessage(item.role, _text(item.content, f"{where}.content"))


def _call(item: InputItem, where: str) -> MessageToolCall:
    name = _needed(item.name, f"{where}.name")
    arguments = _needed(item.arguments, f"{where}.arguments")
    return MessageToolCall(MessageFunction(name, arguments), _needed(item.call_id, f"{where}.call_id"))


def _needed(value: str | None, where: str) -> str:
    if value is None:
        raise _refusal(f"'{where}' is missing.")
    return value


def _text(content: str | list[InputPart] | None, where: str) -> str:
    if content is None:
        raise _refusal(f"'{where}' is missing.")
    if isinstance(content, str):
        return content
    return "".join(_part(part, f"{where}[{number}]") for number, part in enumerate(content))


def _part(part: InputPart, where: str) -> str:
    if part.type == "refusal":
        return _needed(part.refusal, f"{where}.refusal")
    if part.type not in _TEXTS:
        raise _refusal(f"'{where}' is of type {part.type!r:.100}, but this model takes text only.")
    return _needed(part.text, f"{where}.text")


def _refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="input")
