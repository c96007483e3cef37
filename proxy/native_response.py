"""Pieces of text in, Takeoff's answer or its events out. Does no input or output of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from proxy.answer import Answer
from proxy.backend import FinishReason, Piece, Usage
from proxy.chat_response import by_choice


class Metadata(msgspec.Struct):
    """What is known of an answer besides its text: tokens of all prompts together, and why each text ended."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    finish_reason: FinishReason | list[FinishReason]


class Generated(msgspec.Struct):
    """The body of a 200 of `POST /generate`; lists where the request's `text` was one."""

    text: str | list[str]
    metadata: Metadata | UnsetType = UNSET


class TextEvent(msgspec.Struct, frozen=True):
    """More text. `index` tells the prompts of a list apart."""

    text: str
    index: int | None = None


class NativeAnswer(Answer):
    """What one answer has said of itself so far.

    Args:
        is_list: the request's `text` was a list.
        with_metadata: the answer ends with what is known of it.
    """

    def __init__(self, *, is_list: bool, with_metadata: bool) -> None:
        self._is_list = is_list
        self._with_metadata = with_metadata
        self._reasons: dict[int, FinishReason] = {}

    def completion(self, pieces: Sequence[Piece]) -> Generated:
        """Join all pieces of the answer; they hold one finish reason per prompt and one usage."""
        texts = ["".join(piece.text for piece in of_prompt) for _, of_prompt in by_choice(pieces)]
        answer = Generated(texts if self._is_list else texts[0])
        for piece in pieces:
            self._note(piece)
        if self._with_metadata:
            answer.metadata = self._metadata(pieces[-1].usage)
        return answer

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[TextEvent | Metadata]:
        """Turn pieces into events: text as it comes, and last the metadata, if asked for."""
        for piece in pieces:
            self._note(piece)
            if piece.text:
                yield TextEvent(piece.text, piece.index if self._is_list else None)
            if piece.usage is not None and self._with_metadata:
                yield self._metadata(piece.usage)

    def _note(self, piece: Piece) -> None:
        if piece.finish_reason is not None:
            self._reasons[piece.index] = piece.finish_reason

    def _metadata(self, usage: Usage | None) -> Metadata:
        usage = usage or Usage(0, 0)
        reasons = [self._reasons[index] for index in sorted(self._reasons)]
        return Metadata(
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            reasons if self._is_list else reasons[0],
        )
