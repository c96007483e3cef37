"""A backend that says what a test tells it to, and remembers what happened to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from proxy.backend import (
    FinishReason,
    GenerateRequest,
    Load,
    ModelDescription,
    ModelState,
    Piece,
    Prompt,
    Pulse,
    Tokens,
    Usage,
)
from proxy.errors import ApiError, InvalidRequestError

Script = Callable[[GenerateRequest], AsyncGenerator[Sequence[Piece], None]]

DESCRIPTION = ModelDescription(
    name="HuggingFaceTB/SmolLM2-135M-Instruct",
    max_model_len=2048,
    device="cpu",
    dtype="float32",
    engine_version="0.1.0",
    fingerprint="fp_fake",
    max_num_sequences=32,
)


def say(*texts: str, finish_reason: FinishReason = "stop", pause: float = 0.0) -> Script:
    """Answer every choice with `texts`, one response each, or with all in one when not streaming."""

    async def script(request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        num_choices = request.sampling_parameters.get("n", 1)
        usage = Usage(prompt_tokens=7, completion_tokens=len(texts) * num_choices, cached_tokens=4)
        parts = texts if request.stream else ("".join(texts),)
        for number, text in enumerate(parts):
            if pause:
                await asyncio.sleep(pause)
            last = number == len(parts) - 1
            yield [
                Piece(
                    index,
                    text,
                    1,
                    finish_reason if last else None,
                    usage if last and index == num_choices - 1 else None,
                )
                for index in range(num_choices)
            ]

    return script


def respond(*responses: Sequence[Piece] | Exception) -> Script:
    """Yield exactly these responses; an exception is raised in its place."""

    async def script(request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        for response in responses:
            if isinstance(response, Exception):
                raise response
            yield response

    return script


def stall(*first: Sequence[Piece]) -> Script:
    """Yield `first`, then say nothing for ever."""

    async def script(request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        for response in first:
            yield response
        await asyncio.Event().wait()

    return script


class FakeBackend:
    """`Backend` without Triton. Change `script` and `states` at any time."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or say("Hello", " world")
        self.states = [ModelState("primary", "READY"), ModelState("second", "READY")]
        self.failure: ApiError | None = None
        self.description = DESCRIPTION
        self.requests: list[tuple[str, GenerateRequest]] = []
        self.num_index_calls = 0
        self.num_load_calls = 0
        self.load_failure: Exception | None = None
        self.load_gate = asyncio.Event()
        self.load_gate.set()
        self.num_open = 0
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self.is_closed = False
        self.beats: dict[str, Pulse | ApiError] = {}
        self.abandoned: list[str] = []

    @property
    def last(self) -> GenerateRequest:
        return self.requests[-1][1]

    async def generate(self, group: str, request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        self.requests.append((group, request))
        self.num_open += 1
        self.opened.set()
        try:
            async for pieces in self.script(request):
                yield pieces
        finally:
            self.num_open -= 1
            self.closed.set()

    async def tokenize(self, group: str, prompt: Prompt) -> Tokens:
        if prompt.text is None:
            return Tokens([1, 2, 3], ["a", "b", "c"])
        return Tokens(list(prompt.text.encode()), list(prompt.text))

    async def detokenize(self, group: str, token_ids: list[int]) -> str:
        if max(token_ids) > 255:
            raise InvalidRequestError("input_ids names a token that does not exist.", param="input_ids")
        return bytes(token_ids).decode(errors="replace")

    async def describe(self, group: str) -> ModelDescription:
        if self.failure is not None:
            raise self.failure
        return self.description

    async def pulse(self, group: str) -> Pulse:
        beat = self.beats.get(group, Pulse(is_serving=True, pass_seconds=0.0))
        if isinstance(beat, ApiError):
            raise beat
        return beat

    def abandon(self, group: str, message: str) -> None:
        self.abandoned.append(group)

    async def load(self, group: str) -> Load:
        self.num_load_calls += 1
        if self.load_failure is not None:
            raise self.load_failure
        await self.load_gate.wait()
        return Load(self.num_open, 0, 32_768, 256 * self.num_open)

    async def index(self) -> list[ModelState]:
        self.num_index_calls += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return self.states

    async def close(self) -> None:
        self.is_closed = True
