"""The request fields that say how an answer is drawn: the same for chats and completions.

The rules are OpenAI's and, for vLLM's extensions, vLLM's; null is the same as absent.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from proxy.errors import InvalidRequestError
from proxy.guided import GuidedFields

# The engine counts in 32 bits; anything above its context is clamped there anyway.
INT32_MAX = 2**31 - 1

Count = Annotated[int, Meta(ge=1, description="at least 1")]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_StopText = Annotated[str, Meta(min_length=1)]
_TokenId = Annotated[int, Meta(ge=0, le=INT32_MAX)]
_TokenName = Annotated[str, Meta(pattern="^[0-9]{1,10}$", description="a token id")]


class StreamOptions(msgspec.Struct):
    """What else a stream holds."""

    include_usage: Annotated[bool | None, Meta(description="end with a chunk that holds the usage")] = None


class SamplingFields(GuidedFields, kw_only=True):
    """The fields as they come; their bounds are checked while decoding."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 takes the likeliest token")] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, description="0 and -1 keep all tokens (vLLM's extension)")] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1, description="vLLM's extension")] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10, description="vLLM's extension")] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: Annotated[dict[_TokenName, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] | None = (
        None
    )
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, description="vLLM's extension")] | None = None
    stop: _StopText | Annotated[list[_StopText], Meta(max_length=4)] | None = None
    stop_token_ids: Annotated[list[_TokenId], Meta(max_length=64, description="vLLM's extension")] | None = None
    ignore_eos: Annotated[bool, Meta(description="vLLM's extension")] | None = None
    n: Count | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    timeout: Annotated[float, Meta(gt=0, le=86400, description="seconds after which the request fails")] | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the answer is wanted as events."""
        return self.stream is True

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    def check(self, max_choices: int) -> None:
        """Apply the rules that concern more than one field.

        Raises:
            InvalidRequestError: with the offending field in `param`.
        """
        if self.n is not None and self.n > max_choices:
            raise InvalidRequestError(f"'n' is {self.n}, but at most {max_choices} choices are made.", param="n")
        if self.stream_options is not None and not self.is_stream:
            raise InvalidRequestError("'stream_options' is only allowed when 'stream' is true.", param="stream_options")

    def parameters(self, *, max_tokens: int | None, logprobs: int | None) -> dict[str, Any]:
        """The contract's `sampling_parameters`: only what the client has set."""
        given = {
            # vLLM writes "off" as -1 or 0; the engine gets one of them.
            "top_k": None if self.top_k is None else min(max(self.top_k, 0), INT32_MAX),
            "max_tokens": None if max_tokens is None else min(max_tokens, INT32_MAX),
            "min_tokens": None if self.min_tokens is None else min(self.min_tokens, INT32_MAX),
            "stop": self.stop or None,
            "logprobs": logprobs,
            "grammar": self.grammar(),
        }
        as_they_are = {name: value for name in _AS_THEY_ARE if (value := getattr(self, name)) is not None}
        return as_they_are | {name: value for name, value in given.items() if value is not None}


_AS_THEY_ARE = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "stop_token_ids",
    "ignore_eos",
    "n",
    "seed",
    "timeout",
)
