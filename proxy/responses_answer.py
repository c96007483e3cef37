"""Pieces of text in, OpenAI's response object or the events of its stream out. Does no input or output of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from msgspec.structs import replace

from proxy.answer import Answer
from proxy.backend import FinishReason, Piece, TokenLogprob, ToolCallPart, Usage
from proxy.errors import ApiError, describe
from proxy.request_id import new_id
from proxy.responses_event import Completed, Created, Event, Failed, Incomplete, InProgress, Problem
from proxy.responses_growing import Call, Growing, Thoughts, Words
from proxy.responses_object import IncompleteDetails, ItemStatus, ResponseFailure, ResponseObject, ResponsesUsage
from proxy.responses_request import ResponsesBody


class ResponsesAnswer(Answer):
    """One answer, which grows item by item: thoughts, a message, calls. A whole one is put together as a stream is."""

    def __init__(self, asked: ResponsesBody) -> None:
        self._response = ResponseObject.begun(f"resp_{new_id()}", int(time.time()), asked)
        self._latest: Growing | None = None
        self._is_begun = False
        self._num_events = 0
        self._reason: FinishReason = "stop"
        self._held: list[TokenLogprob] = []  # of tokens without a text, until a text comes

    def completion(self, pieces: Sequence[Piece]) -> ResponseObject:
        """See `Answer.completion`."""
        deque(self.chunks(pieces), maxlen=0)
        return self._response

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[Event]:
        """See `Answer.chunks`."""
        return self._numbered(self._of_pieces(pieces))

    def failure(self, error: ApiError) -> Iterator[Event]:
        """See `Answer.failure`."""
        return self._numbered(self._of_failure(error))

    def _numbered(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            event.sequence_number = self._num_events
            self._num_events += 1
            yield event

    def _of_pieces(self, pieces: Iterable[Piece]) -> Iterator[Event]:
        yield from self._begin()
        for piece in pieces:
            self._held += piece.logprobs or []
            if piece.reasoning:
                yield from self._think(piece.reasoning)
            if piece.text or (self._held and isinstance(self._latest, Words)):
                yield from self._say(piece.text)
            for part in piece.tool_calls:
                yield from self._call(part)
            if piece.reasoning or piece.tool_calls:
                self._held = []  # belongs to no text
            if piece.finish_reason is not None:
                self._reason = piece.finish_reason
            if piece.usage is not None:
                yield from self._end(piece.usage)

    def _of_failure(self, error: ApiError) -> Iterator[Event]:
        yield from self._begin()
        told = describe(error).error
        yield Problem(code=told.code or told.type, message=told.message, param=told.param)
        self._response.status = "failed"
        self._response.error = ResponseFailure(told.code or told.type, told.message)
        yield Failed(response=self._response)

    def _begin(self) -> Iterator[Event]:
        if not self._is_begun:
            self._is_begun = True
            yield Created(response=replace(self._response))
            yield InProgress(response=replace(self._response))

    def _think(self, text: str) -> Iterator[Event]:
        if not isinstance(self._latest, Thoughts):
            yield from self._add(Thoughts)
        assert isinstance(self._latest, Thoughts)
        yield self._latest.grow(text)

    def _say(self, text: str) -> Iterator[Event]:
        if not isinstance(self._latest, Words):
            yield from self._add(Words)
        assert isinstance(self._latest, Words)
        logprobs, self._held = self._held, []
        yield self._latest.grow(text, logprobs)

    def _call(self, part: ToolCallPart) -> Iterator[Event]:
        if part.name is not None:
            yield from self._add(partial(Call, name=part.name))
        assert isinstance(self._latest, Call)
        if part.arguments:
            yield self._latest.grow(part.arguments)

    def _add(self, kind: Callable[[int], Growing]) -> Iterator[Event]:
        yield from self._close_latest("completed")
        self._latest = kind(len(self._response.output))
        yield from self._latest.begin()

    def _close_latest(self, status: ItemStatus) -> Iterator[Event]:
        if self._latest is not None:
            yield from self._latest.end(status)
            self._response.output = [*self._response.output, self._latest.item]
            self._latest = None

    def _end(self, usage: Usage) -> Iterator[Event]:
        response = self._response
        if self._latest is None:  # an empty answer is a message, too
            yield from self._say("")
        status: ItemStatus = "completed" if self._reason == "stop" else "incomplete"
        yield from self._close_latest(status)
        response.status = status
        response.completed_at = int(time.time())
        response.usage = ResponsesUsage.of(usage)
        if status == "incomplete":
            response.incomplete_details = IncompleteDetails("max_output_tokens")
        yield (Completed if status == "completed" else Incomplete)(response=response)
