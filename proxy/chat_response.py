"""Pieces of text in, OpenAI's completion object or its stream of chunks out.

One `ChatAnswer` belongs to one request. It does no input or output of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from proxy.answer import Answer
from proxy.backend import FinishReason, Piece, TokenLogprob
from proxy.request_id import new_id
from proxy.tools import ToolCall, ToolCallDelta, calls, deltas, is_whole
from proxy.usage import UsageCount, count

ChatFinishReason = Literal["stop", "length", "tool_calls"]


class ChatLogprobs(msgspec.Struct):
    """Each token's log probability, where the request asked for it."""

    content: list[TokenLogprob]
    refusal: None = None


class _Message(msgspec.Struct):
    """`content` is null where the answer is nothing but calls of tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class _Choice(msgspec.Struct):
    index: int
    message: _Message
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason


class ChatCompletion(msgspec.Struct):
    """A whole answer, as `POST /v1/chat/completions` returns it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[_Choice]
    usage: UsageCount


class _Delta(msgspec.Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class _ChunkChoice(msgspec.Struct):
    index: int
    delta: _Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None = None


class ChatChunk(msgspec.Struct):
    """One event of a streamed answer. `usage` is there, as null or numbers, when the client asked for it."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[_ChunkChoice]
    usage: UsageCount | UnsetType | None = UNSET


class ChatAnswer(Answer):
    """What all chunks of one answer share, and which of its choices have begun."""

    def __init__(self, model: str, fingerprint: str, include_usage: bool = False) -> None:
        self.id = f"chatcmpl-{new_id()}"
        self._created = int(time.time())
        self._model = model
        self._fingerprint = fingerprint
        self._include_usage = include_usage
        self._usage_meanwhile: UsageCount | UnsetType | None = None if include_usage else UNSET
        self._begun: set[int] = set()
        self._calling: dict[int, str] = {}  # by choice, the arguments of its latest call

    def completion(self, pieces: Sequence[Piece]) -> ChatCompletion:
        """Join all pieces of the answer; they hold one finish reason per choice and one usage."""
        return ChatCompletion(
            self.id,
            "chat.completion",
            self._created,
            self._model,
            self._fingerprint,
            [_choice(index, of_choice) for index, of_choice in by_choice(pieces)],
            count(pieces[-1].usage),
        )

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[ChatChunk]:
        """Turn pieces into chunks: a role first, text as it comes, a finish reason last, for each choice."""
        for piece in pieces:
            if piece.index not in self._begun:
                self._begun.add(piece.index)
                yield self._chunk([_ChunkChoice(piece.index, _Delta(role="assistant", content=""))])
            for part in piece.tool_calls:
                begun = "" if part.name is not None else self._calling[piece.index]
                self._calling[piece.index] = begun + part.arguments
            if (delta := _delta(piece)) is not None:
                logprobs = None if piece.logprobs is None else ChatLogprobs(piece.logprobs)
                yield self._chunk([_ChunkChoice(piece.index, delta, logprobs)])
            if piece.finish_reason is not None:
                reason = _reason(piece.finish_reason, self._calling.get(piece.index))
                yield self._chunk([_ChunkChoice(piece.index, _Delta(), None, reason)])
            if piece.usage is not None and self._include_usage:
                yield self._chunk([], count(piece.usage))

    def _chunk(self, choices: list[_ChunkChoice], usage: UsageCount | None = None) -> ChatChunk:
        return ChatChunk(
            self.id,
            "chat.completion.chunk",
            self._created,
            self._model,
            self._fingerprint,
            choices,
            usage or self._usage_meanwhile,
        )


def by_choice(pieces: Iterable[Piece]) -> list[tuple[int, list[Piece]]]:
    """The pieces of each choice, in the order of the choices."""
    of: dict[int, list[Piece]] = {}
    for piece in pieces:
        of.setdefault(piece.index, []).append(piece)
    return sorted(of.items())


def _delta(piece: Piece) -> _Delta | None:
    if not (piece.text or piece.reasoning or piece.tool_calls or piece.logprobs):
        return None
    delta = _Delta()
    if piece.reasoning:
        delta.reasoning_content = piece.reasoning
    if piece.tool_calls:
        delta.tool_calls = deltas(piece.tool_calls)
    if piece.text or not (piece.reasoning or piece.tool_calls):
        delta.content = piece.text
    return delta


def _choice(index: int, pieces: list[Piece]) -> _Choice:
    reason = pieces[-1].finish_reason
    assert reason is not None
    made = calls(part for piece in pieces for part in piece.tool_calls)
    text = "".join(piece.text for piece in pieces)
    message = _Message("assistant", None if made and not text else text)
    if reasoning := "".join(piece.reasoning for piece in pieces):
        message.reasoning_content = reasoning
    if made:
        message.tool_calls = made
    return _Choice(index, message, _logprobs(pieces), _reason(reason, made[-1].function.arguments if made else None))


def _reason(reason: FinishReason, arguments: str | None) -> ChatFinishReason:
    """A call that the limit or a stop string has cut off says so: the latest `arguments` are not whole."""
    return "tool_calls" if arguments is not None and reason == "stop" and is_whole(arguments) else reason


def _logprobs(pieces: list[Piece]) -> ChatLogprobs | None:
    if all(piece.logprobs is None for piece in pieces):
        return None
    return ChatLogprobs([entry for piece in pieces for entry in piece.logprobs or []])
