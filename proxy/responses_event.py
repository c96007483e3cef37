"""The events of a streamed response, by OpenAI's names, and how they are written: each with its name and number."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from proxy.backend import TokenLogprob
from proxy.responses_object import OutputItem, OutputText, ReasoningText, ResponseObject
from proxy.sse import Wire


class Event(msgspec.Struct, kw_only=True, tag_field="type"):
    """What all events have."""

    sequence_number: int = 0


class _WithResponse(Event):
    response: ResponseObject


class Created(_WithResponse, tag="response.created"):
    """The first event."""


class InProgress(_WithResponse, tag="response.in_progress"):
    """The second event."""


class Completed(_WithResponse, tag="response.completed"):
    """The last event of an answer that has ended by itself."""


class Incomplete(_WithResponse, tag="response.incomplete"):
    """The last event of an answer that its limit has cut off."""


class Failed(_WithResponse, tag="response.failed"):
    """The last event of an answer that has failed."""


class Problem(Event, tag="error"):
    """What went wrong, as in an error's body."""

    code: str | None
    message: str
    param: str | None


class _OfItem(Event):
    output_index: int


class ItemAdded(_OfItem, tag="response.output_item.added"):
    """An item begins."""

    item: OutputItem


class ItemDone(_OfItem, tag="response.output_item.done"):
    """An item has ended."""

    item: OutputItem


class _InItem(_OfItem):
    item_id: str


class ArgumentsDelta(_InItem, tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    delta: str


class ArgumentsDone(_InItem, tag="response.function_call_arguments.done"):
    """A call's arguments are complete."""

    name: str
    arguments: str


class _InPart(_InItem, kw_only=True):
    content_index: int = 0


class PartAdded(_InPart, tag="response.content_part.added"):
    """An item's text begins."""

    part: OutputText | ReasoningText


class PartDone(_InPart, tag="response.content_part.done"):
    """An item's text has ended."""

    part: OutputText | ReasoningText


class TextDelta(_InPart, tag="response.output_text.delta"):
    """More of a message's text."""

    delta: str
    logprobs: list[TokenLogprob]


class TextDone(_InPart, tag="response.output_text.done"):
    """A message's text is complete."""

    text: str
    logprobs: list[TokenLogprob]


class ReasoningDelta(_InPart, tag="response.reasoning_text.delta"):
    """More of the model's thoughts."""

    delta: str


class ReasoningDone(_InPart, tag="response.reasoning_text.done"):
    """The model's thoughts are complete."""

    text: str


ResponsesEvent = (
    Created
    | InProgress
    | Completed
    | Incomplete
    | Failed
    | Problem
    | ItemAdded
    | ItemDone
    | ArgumentsDelta
    | ArgumentsDone
    | PartAdded
    | PartDone
    | TextDelta
    | TextDone
    | ReasoningDelta
    | ReasoningDone
)

_encoder = msgspec.json.Encoder()


def encode(events: Iterable[Event]) -> bytes:
    """Encode each event as JSON in a `data:` line behind an `event:` line with its name."""
    out = bytearray()
    for event in events:
        out += f"event: {event.__struct_config__.tag}\ndata: ".encode()
        out += _encoder.encode(event)
        out += b"\n\n"
    return bytes(out)


WIRE = Wire(encode, done=b"")
