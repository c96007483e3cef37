"""Pieces of text in, OpenAI's completion object or its stream of chunks out.

One `ChatAnswer` belongs to one request. It does no input or output of its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from proxy.backend import FinishReason, Piece, Usage


class _PromptDetails(msgspec.Struct):
    cached_tokens: int


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _PromptDetails


class _Message(msgspec.Struct):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class _Choice(msgspec.Struct):
    index: int
    message: _Message
    logprobs: None
    finish_reason: FinishReason


class ChatCompletion(msgspec.Struct):
    """A whole answer, as `POST /v1/chat/completions` returns it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[_Choice]
    usage: _Usage


class _Delta(msgspec.Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class _ChunkChoice(msgspec.Struct):
    index: int
    delta: _Delta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatChunk(msgspec.Struct):
    """One event of a streamed answer. `usage` is there, as null or numbers, when the client asked for it."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[_ChunkChoice]
    usage: _Usage | UnsetType | None = UNSET


class ChatAnswer:
    """What all chunks of one answer share, and which of its choices have begun."""

    def __init__(self, model: str, fingerprint: str, include_usage: bool = False) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._fingerprint = fingerprint
        self._include_usage = include_usage
        self._begun: set[int] = set()

    def completion(self, pieces: Iterable[Piece]) -> ChatCompletion:
        """Join all pieces of the answer; they hold one finish reason per choice and one usage."""
        texts: dict[int, list[str]] = {}
        reasons: dict[int, FinishReason] = {}
        usage = Usage(0, 0)
        for piece in pieces:
            texts.setdefault(piece.index, []).append(piece.text)
            if piece.finish_reason is not None:
                reasons[piece.index] = piece.finish_reason
            usage = piece.usage or usage
        choices = [
            _Choice(index, _Message("assistant", "".join(texts[index])), None, reasons[index])
            for index in sorted(reasons)
        ]
        return ChatCompletion(
            self.id,
            "chat.completion",
            self._created,
            self._model,
            self._fingerprint,
            choices,
            _count(usage),
        )

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[ChatChunk]:
        """Turn pieces into chunks: a role first, text as it comes, a finish reason last, for each choice."""
        for piece in pieces:
            if piece.index not in self._begun:
                self._begun.add(piece.index)
                yield self._chunk(piece.index, _Delta(role="assistant", content=""))
            if piece.text:
                yield self._chunk(piece.index, _Delta(content=piece.text))
            if piece.finish_reason is not None:
                yield self._chunk(piece.index, _Delta(), piece.finish_reason)
            if piece.usage is not None and self._include_usage:
                yield self._envelope([], _count(piece.usage))

    def _chunk(self, index: int, delta: _Delta, finish_reason: FinishReason | None = None) -> ChatChunk:
        choice = _ChunkChoice(index, delta, None, finish_reason)
        return self._envelope([choice], None if self._include_usage else UNSET)

    def _envelope(self, choices: list[_ChunkChoice], usage: _Usage | UnsetType | None) -> ChatChunk:
        return ChatChunk(
            self.id,
            "chat.completion.chunk",
            self._created,
            self._model,
            self._fingerprint,
            choices,
            usage,
        )


def _count(usage: Usage) -> _Usage:
    return _Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        _PromptDetails(usage.cached_tokens),
    )
