"""OpenAI's usage object, made of the engine's counts."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from proxy.backend import Usage


class PromptDetails(msgspec.Struct):
    """What is known of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct):
    """What is known of the answer's tokens."""

    reasoning_tokens: int


class UsageCount(msgspec.Struct):
    """Tokens of one request, over all choices. Only models that think aloud have details of their answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | UnsetType = UNSET


def count(usage: Usage | None) -> UsageCount:
    """Count an answer's tokens."""
    usage = usage or Usage(0, 0)
    total = usage.prompt_tokens + usage.completion_tokens
    details = CompletionDetails(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET
    return UsageCount(usage.prompt_tokens, usage.completion_tokens, total, PromptDetails(usage.cached_tokens), details)
