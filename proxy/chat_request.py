"""The body of a chat completion: bytes in, a checked `ChatRequest` out, or an error that names the field.

The rules are OpenAI's; unknown fields are disregarded and null is the same as absent. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from proxy.backend import Prompt
from proxy.chat_message import ChatMessage, normalise
from proxy.errors import InvalidRequestError, require_at_most
from proxy.json_body import decode
from proxy.sampling import Count
from proxy.tools import ToolFields


class ChatBody(ToolFields, kw_only=True):
    """The body of `POST /v1/chat/completions`. Fields that are not named here are disregarded."""

    model: Annotated[str, Meta(min_length=1, description="the consumer group")]
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Annotated[Count, Meta(description="wins over max_tokens")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Meta(description="vLLM's extension")] | None = None
    add_generation_prompt: Annotated[bool, Meta(description="vLLM's extension")] | None = None
    continue_final_message: Annotated[bool, Meta(description="vLLM's extension")] | None = None


_decoder = msgspec.json.Decoder(ChatBody)


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat completion that can be sent to an engine."""

    model: str
    prompt: Prompt
    sampling_parameters: dict[str, Any]
    stream: bool = False
    include_usage: bool = False
    grammar_field: str = "response_format"


def parse(body: bytes, max_choices: int, max_messages: int) -> ChatRequest:
    """Check a request body against the rules.

    Raises:
        InvalidRequestError: with the offending field in `param`.
    """
    asked = decode(body, _decoder)
    asked.check(max_choices)
    require_at_most(max_messages, len(asked.messages), "messages", param="messages")
    max_tokens = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    return ChatRequest(
        model=asked.model,
        prompt=chat_prompt(asked, asked.tool_options()),
        sampling_parameters={
            **asked.parameters(max_tokens=max_tokens, logprobs=_num_logprobs(asked)),
            **asked.tool_parameters(),
        },
        stream=asked.is_stream,
        include_usage=asked.wants_usage,
        grammar_field=asked.grammar_field,
    )


class Conversation(Protocol):
    """The fields of a body that make a prompt of messages; template options may be among its others."""

    messages: list[ChatMessage]


def chat_prompt(asked: Conversation, tool_options: dict[str, Any] | None = None) -> Prompt:
    """The prompt that a body's messages, template options and tools make.

    Raises:
        InvalidRequestError: a message is not one, or the options contradict each other.
    """
    names = ("chat_template_kwargs", "add_generation_prompt", "continue_final_message", "add_special_tokens")
    options = {name: value for name in names if (value := getattr(asked, name, None)) is not None}
    options.update(tool_options or {})
    if options.get("continue_final_message"):
        if options.get("add_generation_prompt"):
            raise InvalidRequestError(
                "'continue_final_message' and 'add_generation_prompt' cannot both be true.",
                param="continue_final_message",
            )
        options["add_generation_prompt"] = False
    messages = [normalise(message, at) for at, message in enumerate(asked.messages)]
    return Prompt(messages=messages, options=options)


def _num_logprobs(asked: ChatBody) -> int | None:
    if asked.logprobs is True:
        return asked.top_logprobs or 0
    if asked.top_logprobs is not None:
        raise InvalidRequestError("'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs")
    return None
