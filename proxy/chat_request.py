"""The body of a chat completion: bytes in, a checked `ChatRequest` out, or an error that names the field.

The rules are OpenAI's; unknown fields are disregarded and null is the same as absent. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from proxy.chat_message import ChatMessage, normalise
from proxy.errors import InvalidRequestError
from proxy.json_body import decode

# The engine counts in 32 bits; anything above its context is clamped there anyway.
_INT32_MAX = 2**31 - 1

_Count = Annotated[int, Meta(ge=1)]
_StopText = Annotated[str, Meta(min_length=1)]
_Stop = _StopText | Annotated[list[_StopText], Meta(max_length=4)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    """The fields as they come; their bounds are checked while decoding."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    max_completion_tokens: _Count | None = None
    max_tokens: _Count | None = None
    stop: _Stop | None = None
    n: _Count | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None


_decoder = msgspec.json.Decoder(_Body)


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat completion that can be sent to an engine.

    `messages` and `sampling_parameters` are as docs/tensor-contract.md has them; the latter holds only what
    the client has set.
    """

    model: str
    messages: list[dict[str, Any]]
    sampling_parameters: dict[str, Any]
    stream: bool = False
    include_usage: bool = False


def parse(body: bytes, max_choices: int) -> ChatRequest:
    """Check a request body against the rules.

    Raises:
        InvalidRequestError: with the offending field in `param`.
    """
    asked = decode(body, _decoder)
    if asked.n is not None and asked.n > max_choices:
        raise InvalidRequestError(f"'n' is {asked.n}, but at most {max_choices} choices are made.", param="n")
    stream = asked.stream is True
    if asked.stream_options is not None and not stream:
        raise InvalidRequestError("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return ChatRequest(
        model=asked.model,
        messages=[normalise(message, at) for at, message in enumerate(asked.messages)],
        sampling_parameters=_sampling_parameters(asked),
        stream=stream,
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage is True,
    )


def _sampling_parameters(asked: _Body) -> dict[str, Any]:
    max_tokens = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    parameters = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        # vLLM writes "off" as -1 or 0; the engine gets one of them.
        "top_k": None if asked.top_k is None else min(max(asked.top_k, 0), _INT32_MAX),
        "max_tokens": None if max_tokens is None else min(max_tokens, _INT32_MAX),
        "stop": asked.stop or None,
        "n": asked.n,
        "seed": asked.seed,
    }
    return {name: value for name, value in parameters.items() if value is not None}
