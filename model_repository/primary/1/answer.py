"""A request's answer as it grows: token ids of its choices in, events out. Used on the responder thread alone."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from event import Event
from llm.chat_output import Output
from llm.request import FinishReason, GenerationRequest, TokenLogprobs
from llm.text_stream import Decoder, TextStream
from token_report import report


class Answer:
    """Text and token counts of a request's choices.

    Args:
        bytes_of: the bytes of a token, for log probabilities.
        on_stop_string: told the index of a choice that its stop string has ended, so that the engine drops it.
        outputs: what takes the text of each choice apart; empty: nothing does.

    Attributes:
        num_reused: tokens of the prompt that were in the cache.
    """

    def __init__(
        self,
        request: GenerationRequest,
        decoder: Decoder,
        bytes_of: Callable[[int], bytes],
        on_stop_string: Callable[[int], None],
        outputs: Sequence[Output] = (),
    ) -> None:
        sampling = request.sampling
        self._num_prompt_tokens = len(request.prompt_token_ids)
        self._num_tokens = 0
        self.num_reused = 0
        self._streams = {index: TextStream(decoder, sampling.stop, sampling.min_tokens) for index in range(sampling.n)}
        self._bytes_of = bytes_of
        self._on_stop_string = on_stop_string
        self._outputs = outputs
        self._num_reasoning = 0
        self._unheard = [0] * len(outputs)  # tokens of each choice behind which nothing has come out yet

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return not self._streams

    @property
    def usage(self) -> dict[str, int]:
        """Token counts so far; the prompt counts once, the choices together."""
        counts = {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": self._num_tokens,
            "cached_tokens": self.num_reused,
        }
        return counts | ({"reasoning_tokens": self._num_reasoning} if self._num_reasoning else {})

    def add(
        self,
        index: int,
        token_ids: list[int],
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> list[Event]:
        """Continue choice `index`; no event when it has ended already, the engine being a pass ahead of it."""
        if not self._outputs or len(token_ids) < 2:
            return self._add(index, token_ids, finish_reason, logprobs)
        # One by one, so that it is known which of them were thoughts.
        events: list[Event] = []
        for number, token_id in enumerate(token_ids):
            reason = finish_reason if number == len(token_ids) - 1 else None
            events += self._add(index, [token_id], reason, (logprobs or [])[number : number + 1])
        return events

    def _add(
        self,
        index: int,
        token_ids: list[int],
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs] | None,
    ) -> list[Event]:
        stream = self._streams.get(index)
        if stream is None:
            return []
        # The end token counts as a token but has no text.
        num_silent = 1 if finish_reason == "stop" else 0
        piece = stream.push(token_ids[: len(token_ids) - num_silent])
        reported = (logprobs or [])[: piece.num_tokens]
        num_tokens = piece.num_tokens + num_silent
        if piece.is_stopped:
            if finish_reason is None:
                self._on_stop_string(index)
            return [self._event(index, piece.text, piece.num_tokens, "stop", reported, is_cut=True)]
        if finish_reason is None:
            return [self._event(index, piece.text, num_tokens, None, reported)]
        rest = stream.finish()
        reason = "stop" if rest.is_stopped else finish_reason
        is_cut = rest.is_stopped or reason == "length"
        return [self._event(index, piece.text + rest.text, num_tokens, reason, reported, is_cut=is_cut)]

    def _event(
        self,
        index: int,
        text: str,
        num_tokens: int,
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs],
        *,
        is_cut: bool = False,
    ) -> Event:
        self._num_tokens += num_tokens
        if finish_reason:
            del self._streams[index]
        body: dict[str, Any] = {"index": index, "num_tokens": num_tokens, "finish_reason": finish_reason}
        if self._outputs:
            parts = self._outputs[index].push(text, is_last=finish_reason is not None, is_cut=is_cut)
            self._unheard[index] += num_tokens
            if parts.reasoning:
                self._num_reasoning += self._unheard[index]
            if parts.reasoning or parts.text or parts.tool_calls:
                self._unheard[index] = 0
            text = parts.text
            if parts.reasoning:
                body["reasoning"] = parts.reasoning
            if parts.tool_calls:
                body["tool_calls"] = [asdict(part) for part in parts.tool_calls]
        if logprobs:
            body["logprobs"] = [report(entry, self._bytes_of) for entry in logprobs]
        return Event(text, body)
