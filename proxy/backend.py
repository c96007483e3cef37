"""The seam between the HTTP side and whatever generates text: one protocol and its messages.

The messages mirror docs/tensor-contract.md. Nothing here knows HTTP, gRPC or Triton's tensors.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length"]


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be continued: `messages` by the model's own chat template, a raw `text`, or `token_ids`.

    `options` are the contract's `prompt_options`; they hold only what the client has set.
    """

    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    options: dict[str, Any] = {}


class GenerateRequest(msgspec.Struct, frozen=True):
    """One request to an engine.

    `sampling_parameters` holds only what the client has set; the model's defaults fill the rest. `trace` is the W3C
    context of the caller's span, in header names; empty: there is none.
    """

    prompt: Prompt
    sampling_parameters: dict[str, Any]
    stream: bool
    request_id: str = ""
    trace: dict[str, str] = {}


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the engine counted them, over all choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that could have been drawn; `bytes` are its own, also when they form no whole character."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token that was drawn, and the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ToolCallPart(msgspec.Struct, frozen=True):
    """A piece of a choice's call number `index`: its name, which comes first and once, or more of its arguments."""

    index: int
    name: str | None = None
    arguments: str = ""


class Piece(msgspec.Struct, frozen=True):
    """Text of one choice. `finish_reason` marks the choice's last piece, `usage` the request's last.

    `reasoning` is what the model thinks aloud before it answers.
    """

    index: int
    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: list[TokenLogprob] | None = None
    reasoning: str = ""
    tool_calls: list[ToolCallPart] = []


class Tokens(msgspec.Struct, frozen=True):
    """Token ids, and each one's own text."""

    ids: list[int]
    texts: list[str] = []


class ModelDescription(msgspec.Struct, frozen=True):
    """What a group says about itself. `max_model_len` counts prompt and new tokens together.

    `aliases` are more names under which clients may ask for the group.
    """

    name: str
    max_model_len: int
    device: str
    dtype: str
    engine_version: str
    fingerprint: str
    max_num_sequences: int
    aliases: tuple[str, ...] = ()


class Pulse(msgspec.Struct, frozen=True):
    """A group's sign of life: whether it takes requests, and how long its forward pass lasts (0 between passes)."""

    is_serving: bool
    pass_seconds: float


class Load(msgspec.Struct, frozen=True):
    """How busy a group is: sequences in its batch and before it, tokens that its cache can hold and holds for them."""

    num_running: int
    num_waiting: int
    kv_cache_tokens: int
    kv_cache_used_tokens: int


class ModelState(msgspec.Struct, frozen=True):
    """One line of Triton's repository index. `state` is Triton's own word; `""` is never loaded."""

    name: str
    state: str
    reason: str = ""


class Backend(Protocol):
    """What the proxy needs from Triton; every method raises `proxy.errors.ApiError` and nothing else."""

    def generate(self, group: str, request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        """Yield the pieces of each response as they arrive; the last piece carries `usage`.

        Closing the generator, or cancelling the task that waits in it, cancels the request in the engine.
        A refusal or a failure is raised, after the pieces that came before it.
        """
        ...

    async def tokenize(self, group: str, prompt: Prompt) -> Tokens:
        """Turn a prompt into the tokens that the model would read."""
        ...

    async def detokenize(self, group: str, token_ids: list[int]) -> str:
        """Turn tokens into text."""
        ...

    async def describe(self, group: str) -> ModelDescription:
        """Ask a group for its description."""
        ...

    async def pulse(self, group: str) -> Pulse:
        """Ask a group for a sign of life.

        Raises:
            ProcessDeadError: its process gave Triton no heartbeat for a second.
            DeadlineError: it has not answered in time, which a busy one may.
        """
        ...

    def abandon(self, group: str, message: str) -> None:
        """Fail every request that the group has not answered yet, with an `UnavailableError` that says `message`."""
        ...

    async def load(self, group: str) -> Load:
        """Ask a group how busy it is."""
        ...

    async def index(self) -> list[ModelState]:
        """List every model of the repository with its state."""
        ...

    async def close(self) -> None:
        """Let go of the connection; generators that are still open fail."""
        ...
