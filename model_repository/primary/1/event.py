"""The entries of a response: text, and the JSON object beside it (docs/tensor-contract.md)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llm.errors import GenerationError


@dataclass(frozen=True)
class Event:
    """One entry of a response."""

    text: str
    body: dict[str, Any]


def error_event(error: GenerationError) -> Event:
    """Tells a client that its request has failed, and how."""
    body = {"kind": error.kind, "message": error.message, "code": error.code, "param": error.param}
    return Event("", {"error": body})


def merge(pieces: Iterable[Event]) -> list[Event]:
    """Join the pieces of each choice into one event, in the order of the choices."""
    merged: dict[int, Event] = {}
    for piece in pieces:
        index = piece.body["index"]
        if earlier := merged.get(index):
            count = earlier.body["num_tokens"] + piece.body["num_tokens"]
            piece = Event(earlier.text + piece.text, {**piece.body, "num_tokens": count})
        merged[index] = piece
    return [merged[index] for index in sorted(merged)]
