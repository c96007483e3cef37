"""A model that Triton could not load, in the model's own words."""

from __future__ import annotations

from typing import Self

# What precedes a model's own sentence; the names of our own errors say nothing to a user.
_MARKS = ("ModelLoadError: ", "ConfigError: ", "TritonModelException: ")


class LoadError(Exception):
    """A group could not be loaded.

    Attributes:
        model: Triton's name of it.
        reason: one sentence.
    """

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model} did not load: {reason}")
        self.model = model
        self.reason = reason

    @classmethod
    def of(cls, model: str, error: Exception) -> Self:
        """The failure of `model` that Triton tells with `error`."""
        return cls(model, _first_sentence(str(error)))


def _first_sentence(message: str) -> str:
    """What the model says, without the traceback and the names of classes that Triton adds."""
    if "is not healthy" in message:
        return "its process died while loading, most often for lack of memory"
    reason = " ".join(message.split("\n\nAt:")[0].split())
    for mark in _MARKS:
        reason = reason.rpartition(mark)[2]
    return reason
