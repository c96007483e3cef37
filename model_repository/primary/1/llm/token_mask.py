"""The tokens that grammars allow, for all rows of a pass at once. Engine thread."""

from collections.abc import Sequence as Rows

import numpy as np
import torch

from llm.errors import EngineError, GenerationError
from llm.sequence import Sequence

_WORD_BITS = 32


class TokenMasks:
    """The masks of those rows that have a constraint, filled on the host.

    A device that computes the rows' logits meanwhile is not waited for: nothing looks at them before `apply`.

    Args:
        sequences: the rows' owners.
        vocabulary: tokens in a row of logits.

    Attributes:
        failures: by row, why its constraint cannot say what may follow.
    """

    def __init__(self, sequences: Rows[Sequence], vocabulary: int) -> None:
        self.failures: dict[int, GenerationError] = {}
        self._vocabulary = vocabulary
        held = [(row, s.logits_rule.constraint) for row, s in enumerate(sequences) if s.logits_rule is not None]
        constraints = [(row, constraint) for row, constraint in held if constraint is not None]
        self._rows = [row for row, _ in constraints]
        self._words = np.zeros((len(constraints), -(-vocabulary // _WORD_BITS)), dtype=np.int32)
        for words, (row, constraint) in zip(self._words, constraints, strict=True):
            try:
                constraint.fill(words)
                if not words.any():
                    raise EngineError("The answer's grammar leaves no token to go on with.")
            except GenerationError as error:
                self.failures[row] = error
                words.fill(-1)

    def apply(self, logits: torch.Tensor) -> None:
        """Make the logits `[rows, vocabulary]` of what may not be drawn minus infinity, in place."""
        if not self._rows:
            return
        bits = np.unpackbits((~self._words).view(np.uint8), axis=1, count=self._vocabulary, bitorder="little")
        is_banned = torch.from_numpy(bits.view(np.bool_)).to(logits.device)
        if len(self._rows) == len(logits):
            logits.masked_fill_(is_banned, float("-inf"))
        else:
            logits[self._rows] = logits[self._rows].masked_fill_(is_banned, float("-inf"))
