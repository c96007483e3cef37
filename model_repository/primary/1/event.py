"""The entries of a response: text, and the JSON object beside it (docs/tensor-contract.md)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llm.errors import GenerationError
from llm.observer import Load


@dataclass(slots=True)
class Event:
    """One entry of a response. Not frozen, because one is made for each token, and that would take twice as long."""

    text: str
    body: dict[str, Any]

    @property
    def says_something(self) -> bool:
        """Whether a client that streams should have it soon."""
        body = self.body
        return bool(self.text or body.get("finish_reason") or body.get("reasoning") or body.get("tool_calls"))


def error_event(error: GenerationError) -> Event:
    """Tells a client that its request has failed, and how."""
    body = {"kind": error.kind, "message": error.message, "code": error.code, "param": error.param}
    return Event("", {"error": body})


def load_event(load: Load) -> Event:
    """Answers `load`."""
    body = {
        "num_running": load.num_running,
        "num_waiting": load.num_waiting,
        "kv_cache_tokens": load.num_blocks * load.block_size,
        "kv_cache_used_tokens": load.num_used_blocks * load.block_size,
    }
    return Event("", {"load": body})


def tokens_event(token_ids: Sequence[int], bytes_of: Callable[[int], bytes]) -> Event:
    """Answers `tokenize`."""
    texts = [bytes_of(token_id).decode(errors="replace") for token_id in token_ids]
    return Event("", {"tokens": {"ids": list(token_ids), "texts": texts}})


def text_event(text: str, token_ids: Sequence[int]) -> Event:
    """Answers `detokenize`."""
    return Event(text, {"tokens": {"ids": list(token_ids)}})


def merge(pieces: list[Event]) -> list[Event]:
    """Join the pieces of each choice into one event, in the order of the choices."""
    if len(pieces) == 1:  # as nearly always
        return pieces
    merged: dict[int, Event] = {}
    for piece in pieces:
        index = piece.body["index"]
        if earlier := merged.get(index):
            piece = Event(earlier.text + piece.text, _join(earlier.body, piece.body))
        merged[index] = piece
    return [merged[index] for index in sorted(merged)]


def _join(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    body = {**later, "num_tokens": earlier["num_tokens"] + later["num_tokens"]}
    if logprobs := earlier.get("logprobs", []) + later.get("logprobs", []):
        body["logprobs"] = logprobs
    if reasoning := earlier.get("reasoning", "") + later.get("reasoning", ""):
        body["reasoning"] = reasoning
    if calls := _join_calls(earlier.get("tool_calls", []) + later.get("tool_calls", [])):
        body["tool_calls"] = calls
    return body


def _join_calls(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each call."""
    calls: dict[int, dict[str, Any]] = {}
    for part in parts:
        call = calls.setdefault(part["index"], {**part, "arguments": ""})
        call["arguments"] += part["arguments"]
    return list(calls.values())
