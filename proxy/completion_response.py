"""Pieces of text in, OpenAI's text completion or its stream of chunks out. Does no input or output of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from proxy.answer import Answer
from proxy.backend import FinishReason, Piece
from proxy.chat_response import by_choice
from proxy.request_id import new_id
from proxy.usage import UsageCount, count


class CompletionLogprobs(msgspec.Struct):
    """OpenAI's older shape: one list for each kind of figure, with an entry for each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct):
    """One continuation, or in a stream a part of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(msgspec.Struct):
    """A whole answer, or one event of a stream; `usage` is in every whole answer, and in streams on request."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageCount | UnsetType | None = UNSET


class CompletionAnswer(Answer):
    """What all chunks of one answer share.

    Args:
        echoes: the text to put before each choice, by its index.
    """

    def __init__(self, model: str, fingerprint: str, include_usage: bool, echoes: Sequence[str] = ()) -> None:
        self._id = f"cmpl-{new_id()}"
        self._created = int(time.time())
        self._model = model
        self._fingerprint = fingerprint
        self._include_usage = include_usage
        self._echoes = echoes
        self._lengths: dict[int, int] = {}

    def completion(self, pieces: Sequence[Piece]) -> Completion:
        """Join all pieces of the answer; they hold one finish reason per choice and one usage."""
        choices = [self._choice(index, of_choice) for index, of_choice in by_choice(pieces)]
        return self._envelope(choices, count(pieces[-1].usage))

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[Completion]:
        """Turn pieces into chunks, one for each that has something to say."""
        for piece in pieces:
            if piece.text or piece.logprobs or piece.finish_reason is not None:
                yield self._envelope([self._choice(piece.index, [piece])], None if self._include_usage else UNSET)
            if piece.usage is not None and self._include_usage:
                yield self._envelope([], count(piece.usage))

    def _choice(self, index: int, pieces: list[Piece]) -> CompletionChoice:
        text = "".join(piece.text for piece in pieces)
        start = self._lengths.get(index)
        if start is None:
            echo = self._echoes[index] if self._echoes else ""
            start, text = len(echo), echo + text
            self._lengths[index] = 0
        logprobs = _logprobs(pieces, start)
        self._lengths[index] += len(text)
        return CompletionChoice(index, text, logprobs, pieces[-1].finish_reason)

    def _envelope(self, choices: list[CompletionChoice], usage: UsageCount | UnsetType | None) -> Completion:
        return Completion(self._id, "text_completion", self._created, self._model, self._fingerprint, choices, usage)


def _logprobs(pieces: list[Piece], start: int) -> CompletionLogprobs | None:
    if all(piece.logprobs is None for piece in pieces):
        return None
    entries = [entry for piece in pieces for entry in piece.logprobs or []]
    offsets = []
    for entry in entries:
        offsets.append(start)
        start += len(entry.token)
    return CompletionLogprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        top_logprobs=[{top.token: top.logprob for top in entry.top_logprobs} for entry in entries],
        text_offset=offsets,
    )
