"""A `Backend` with a span around each answer, whose context goes along to the engine. Only there when traces are on."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy.backend import Backend, GenerateRequest, Load, ModelDescription, ModelState, Piece, Prompt, Pulse, Tokens
from proxy.errors import ApiError
from proxy.tracing import Tracing

# The GenAI conventions' names for sampling parameters; the others have none.
_PARAMETERS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}


class TracedBackend:
    """Hands everything on to `backend`."""

    def __init__(self, backend: Backend, tracing: Tracing) -> None:
        self._backend = backend
        self._tracing = tracing

    async def generate(self, group: str, request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        """See `Backend.generate`."""
        operation = "text_completion" if request.prompt.messages is None else "chat"
        attributes = _attributes(operation, group, request)
        span = self._tracing.tracer.start_span(f"{operation} {group}", kind=SpanKind.CLIENT, attributes=attributes)
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
        answer = _Answer(span, tells_content=self._tracing.tells_content)
        try:
            if self._tracing.tells_content:
                span.set_attribute("gen_ai.input.messages", _input(request.prompt))
            async with aclosing(self._backend.generate(group, replace(request, trace=carrier))) as responses:
                async for pieces in responses:
                    answer.note(pieces)
                    yield pieces
        except ApiError as error:
            span.set_attribute("error.type", error.reason)
            if error.status >= 500:
                span.set_status(StatusCode.ERROR)
            raise
        finally:
            answer.end()

    async def tokenize(self, group: str, prompt: Prompt) -> Tokens:
        """See `Backend.tokenize`."""
        return await self._backend.tokenize(group, prompt)

    async def detokenize(self, group: str, token_ids: list[int]) -> str:
        """See `Backend.detokenize`."""
        return await self._backend.detokenize(group, token_ids)

    async def describe(self, group: str) -> ModelDescription:
        """See `Backend.describe`."""
        return await self._backend.describe(group)

    async def load(self, group: str) -> Load:
        """See `Backend.load`."""
        return await self._backend.load(group)

    async def pulse(self, group: str) -> Pulse:
        """See `Backend.pulse`."""
        return await self._backend.pulse(group)

    def abandon(self, group: str, message: str) -> None:
        """See `Backend.abandon`."""
        self._backend.abandon(group, message)

    async def index(self) -> list[ModelState]:
        """See `Backend.index`."""
        return await self._backend.index()

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._backend.close()


class _Answer:
    """What the span is told of an answer."""

    def __init__(self, span: Span, *, tells_content: bool) -> None:
        self._span = span
        self._tells_content = tells_content
        self._has_begun = False
        self._reasons: dict[int, str] = {}
        self._texts: dict[int, str] = {}

    def note(self, pieces: Sequence[Piece]) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._span.add_event("first response")
        for piece in pieces:
            if piece.finish_reason is not None:
                self._reasons[piece.index] = piece.finish_reason
            if self._tells_content:
                self._texts[piece.index] = self._texts.get(piece.index, "") + piece.text
        if (usage := pieces[-1].usage) is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)

    def end(self) -> None:
        if self._reasons:
            self._span.set_attribute(
                "gen_ai.response.finish_reasons", [self._reasons[index] for index in sorted(self._reasons)]
            )
        if self._tells_content:
            said = [_message("assistant", self._texts[index]) for index in sorted(self._texts)]
            self._span.set_attribute("gen_ai.output.messages", json.dumps(said))
        self._span.end()


def _attributes(operation: str, group: str, request: GenerateRequest) -> dict[str, str | int | float]:
    given: Mapping[str, Any] = request.sampling_parameters
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "slipstream",
        "gen_ai.request.model": group,
        **{name: given[key] for key, name in _PARAMETERS.items() if given.get(key) is not None},
        "slipstream.request_id": request.request_id,
    }


def _input(prompt: Prompt) -> str:
    """The prompt in the conventions' form."""
    if prompt.messages is not None:
        return json.dumps([_message(message["role"], message.get("content") or "") for message in prompt.messages])
    return json.dumps([_message("user", prompt.text if prompt.text is not None else str(prompt.token_ids))])


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}
