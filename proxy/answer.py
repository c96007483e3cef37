"""What makes a route's answer of the pieces that a model says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from proxy.backend import Piece
from proxy.errors import ApiError, describe


class Answer(ABC):
    """Knows the shape in which a route answers. One belongs to one request; it does no input or output of its own."""

    @abstractmethod
    def completion(self, pieces: Sequence[Piece]) -> Any:
        """The whole answer, of all its pieces; they hold one finish reason per choice and one usage."""

    @abstractmethod
    def chunks(self, pieces: Iterable[Piece]) -> Iterable[Any]:
        """The events that these pieces make."""

    def failure(self, error: ApiError) -> Iterable[Any]:
        """The events that end a stream which has begun and failed."""
        return [describe(error)]
