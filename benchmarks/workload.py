"""The load that every benchmark puts on: prompts of 51 to 53 tokens, 64 new tokens, temperature 1, a seed each."""

from typing import Any

NUM_NEW_TOKENS = 64
_SUBJECTS = ("bridges", "volcanoes", "compilers", "sourdough", "tides", "chess openings", "glaciers", "violins")


def request(number: int) -> dict[str, Any]:
    """Body of the `number`th chat completion; the same number is the same request in every run."""
    subject = _SUBJECTS[number % len(_SUBJECTS)]
    question = f"Explain to a curious child, in a few plain sentences, how {subject} come about. Example {number}."
    return {
        "model": "primary",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": NUM_NEW_TOKENS,
        "temperature": 1.0,
        "seed": number,
    }
