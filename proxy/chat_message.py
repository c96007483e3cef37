"""One turn of a conversation, from OpenAI's many shapes to the one that chat templates read."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from proxy.errors import InvalidRequestError


class ContentPart(msgspec.Struct):
    """A part of a message's content; only parts of type `text` can be read by the models served here."""

    type: str
    text: str | None = None


class MessageFunction(msgspec.Struct):
    """What was called, and with which arguments: JSON in a string."""

    name: str
    arguments: str = "{}"


class MessageToolCall(msgspec.Struct):
    """A call that the assistant has made in an earlier turn."""

    function: MessageFunction
    id: str | None = None
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct):
    """A message as the client sends it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None


def normalise(message: ChatMessage, at: int) -> dict[str, Any]:
    """Return the message as docs/tensor-contract.md has it; `at` is its place, for error messages.

    Raises:
        InvalidRequestError: content is missing where it is needed, or is something else than text.
    """
    turn: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _text(message, at),
    }
    for key in ("name", "tool_call_id"):
        value = getattr(message, key)
        if value is not None:
            turn[key] = value
    if message.tool_calls:
        turn["tool_calls"] = [msgspec.to_builtins(call) for call in message.tool_calls]
    return turn


def _text(message: ChatMessage, at: int) -> str:
    if message.content is None:
        if message.role == "assistant":
            return ""
        raise InvalidRequestError(
            f"'messages[{at}].content' is missing: a {message.role} message needs text.", param="messages"
        )
    if isinstance(message.content, str):
        return message.content
    return "".join(_part(part, at, number) for number, part in enumerate(message.content))


def _part(part: ContentPart, at: int, number: int) -> str:
    where = f"'messages[{at}].content[{number}]'"
    if part.type != "text":
        raise InvalidRequestError(
            f"{where} is of type {part.type!r:.100}, but this model takes text only.", param="messages"
        )
    if part.text is None:
        raise InvalidRequestError(f"{where} has no 'text'.", param="messages")
    return part.text
