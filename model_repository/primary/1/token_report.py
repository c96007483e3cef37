"""Log probabilities as clients get them: OpenAI's shape, made of the engine's numbers. Responder thread."""

import math
from collections.abc import Callable
from typing import Any

from llm.request import TokenLogprobs

# What JSON has no word for; the number that vLLM writes in its place.
IMPOSSIBLE = -9999.0


def report(logprobs: TokenLogprobs, bytes_of: Callable[[int], bytes]) -> dict[str, Any]:
    """A token with its log probability and those of the most likely ones (docs/tensor-contract.md)."""
    top = [_entry(token_id, logprob, bytes_of) for token_id, logprob in logprobs.top]
    return {**_entry(logprobs.token_id, logprobs.logprob, bytes_of), "top_logprobs": top}


def _entry(token_id: int, logprob: float, bytes_of: Callable[[int], bytes]) -> dict[str, Any]:
    own = bytes_of(token_id)
    return {
        "token": own.decode(errors="replace"),
        "bytes": list(own),
        "logprob": logprob if math.isfinite(logprob) else IMPOSSIBLE,
    }
