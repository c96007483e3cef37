"""What a Triton response carries: the events of docs/tensor-contract.md, read from its tensors."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from proxy.backend import FinishReason, Load, ModelDescription, Pulse, TokenLogprob, Tokens, ToolCallPart, Usage

# The contract's tensors; both are STRING, of the same shape [k].
OUTPUTS = ("text_output", "event")


class WireError(msgspec.Struct):
    """Why a request has failed."""

    kind: str
    message: str
    code: str | None = None
    param: str | None = None


class WireEvent(msgspec.Struct):
    """One entry of a response, `text` and the `event` output: the union of the contract's shapes."""

    text: str = ""
    index: int = 0
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: list[TokenLogprob] | None = None
    reasoning: str = ""
    tool_calls: list[ToolCallPart] = []
    error: WireError | None = None
    model: ModelDescription | None = None
    load: Load | None = None
    tokens: Tokens | None = None
    pulse: Pulse | None = None
    recipient: int = 0
    num_bundled: int = 0

    def take_in(self, later: WireEvent) -> bool:
        """Become this event and the next one of the same choice, if both are nothing but text; whether it did."""
        if self.finish_reason or self.reasoning or self.tool_calls or later.reasoning or later.tool_calls:
            return False
        if later.usage is not None or later.error is not None or (self.logprobs is None) != (later.logprobs is None):
            return False
        self.text += later.text
        self.num_tokens += later.num_tokens
        self.finish_reason = later.finish_reason
        if self.logprobs is not None and later.logprobs is not None:
            self.logprobs += later.logprobs
        return True


# The events of each response of a request.
Responses = AsyncGenerator[list[WireEvent], None]

_decoder = msgspec.json.Decoder(WireEvent)


def read_events(response: Any) -> list[WireEvent]:
    """The events of a `ModelInferResponse`, as gRPC has them.

    Raises:
        ValueError, struct.error: it is not what the contract says; so are its subclasses MsgspecError and UnicodeError.
    """
    columns: dict[str, list[bytes]] = {name: [] for name in OUTPUTS}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        columns[output.name] = _strings(raw)
    return [read_event(text, body) for text, body in zip(*(columns[name] for name in OUTPUTS), strict=True)]


def is_final(response: Any) -> bool:
    """Whether a `ModelInferResponse` is its request's last one."""
    return bool(response.parameters["triton_final_response"].bool_param)


def read_event(text: bytes, body: bytes) -> WireEvent:
    """One entry of both tensors. Raises what `read_events` does."""
    event = _decoder.decode(body)
    event.text = text.decode()
    return event


def _strings(raw: bytes) -> list[bytes]:
    """Split a STRING tensor, which is laid out as (uint32 length, bytes) pairs."""
    strings, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        strings.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return strings
