"""Drafts of what an answer goes on with, so that one pass gives several tokens. Imports no torch; engine thread.

Answers often repeat what stands in their text: a name, a line of code, a passage that is to be corrected. What followed
the last tokens where they stood before is the draft ("prompt lookup", a kind of speculative decoding). A pass computes
a draft's tokens beside the one that is known, each as a row of its own. What is drawn depends on the seed, the position
and the logits alone: so where a draft's token was drawn in its place, what is drawn behind it is what would have been
drawn without the draft, and from the first other one on the rows are dropped. Answers are the same; what changes is how
many passes they take.
"""

from array import array

# So many of the last tokens must have stood there before; where more have, the draft is better.
_MOST, _LEAST = 4, 2
_TOKEN_BYTES = array("i").itemsize


class PromptLookup:
    """Drafts for one sequence.

    Wrong ones cost little, but not nothing. So after one that was wrong from the start the next is a single token, and
    they grow only as their tokens are accepted.
    """

    def __init__(self) -> None:
        self._text = bytearray()  # the tokens, to be searched
        self._ambition = 1

    def draft(self, token_ids: list[int], most: int) -> list[int]:
        """What `token_ids` may go on with, at most so many tokens; `token_ids` has only grown since the last time."""
        self._text += array("i", token_ids[len(self._text) // _TOKEN_BYTES :]).tobytes()
        places = (self._place_after(size) for size in range(_MOST, _LEAST - 1, -1))
        place = next(filter(None, places), None)
        if place is None:
            return []
        period = len(token_ids) - place  # what was said once, may be said again and again
        return [token_ids[place + number % period] for number in range(min(most, self._ambition))]

    def learn(self, num_accepted: int) -> None:
        """Take note how many tokens of the last draft were accepted."""
        self._ambition = 2 * num_accepted + 1

    def _place_after(self, size: int) -> int | None:
        """Where the last `size` tokens stood before, behind them; the last such place."""
        end = len(self._text) - _TOKEN_BYTES
        if end < size * _TOKEN_BYTES:
            return None
        sought = self._text[-size * _TOKEN_BYTES :]
        while (at := self._text.rfind(sought, 0, end)) >= 0:
            if at % _TOKEN_BYTES == 0:
                return at // _TOKEN_BYTES + size
            end = at + len(sought) - 1
        return None
