"""The entries of a response: text, and the JSON object beside it (docs/tensor-contract.md)."""

from collections.abc import Callable, Iterable, Sequence
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


def tokens_event(token_ids: Sequence[int], bytes_of: Callable[[int], bytes]) -> Event:
    """Answers `tokenize`."""
    texts = [bytes_of(token_id).decode(errors="replace") for token_id in token_ids]
    return Event("", {"tokens": {"ids": list(token_ids), "texts": texts}})


def text_event(text: str, token_ids: Sequence[int]) -> Event:
    """Answers `detokenize`."""
    return Event(text, {"tokens": {"ids": list(token_ids)}})


def merge(pieces: Iterable[Event]) -> list[Event]:
    """Join the pieces of each choice into one event, in the order of the choices."""
    merged: dict[int, Event] = {}
    for piece in pieces:
        index = piece.body["index"]
        if earlier := merged.get(index):
            body = {**piece.body, "num_tokens": earlier.body["num_tokens"] + piece.body["num_tokens"]}
            if logprobs := earlier.body.get("logprobs", []) + piece.body.get("logprobs", []):
                body["logprobs"] = logprobs
            piece = Event(earlier.text + piece.text, body)
        merged[index] = piece
    return [merged[index] for index in sorted(merged)]
