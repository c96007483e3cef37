"""OpenAI's usage object, made of the engine's counts."""

from __future__ import annotations

import msgspec

from proxy.backend import Usage


class PromptDetails(msgspec.Struct):
    """What is known of the prompt's tokens."""

    cached_tokens: int


class UsageCount(msgspec.Struct):
    """Tokens of one request, over all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


def count(usage: Usage | None) -> UsageCount:
    """Count an answer's tokens."""
    usage = usage or Usage(0, 0)
    total = usage.prompt_tokens + usage.completion_tokens
    return UsageCount(usage.prompt_tokens, usage.completion_tokens, total, PromptDetails(usage.cached_tokens))
