"""Token ids in, text out, as soon as it is certain. One per choice; knows nothing of threads."""

from dataclasses import dataclass
from typing import Protocol

REPLACEMENT = "\ufffd"

# Tokens that may wait for the rest of a character before it is asked whether it can still come, and how many of the
# last are left waiting then: a character has at most four bytes, each of which may be a token.
_MAX_PENDING = 64
_NUM_LEFT = 8


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: list[int]) -> str:
        """Text of `token_ids` without special tokens; bytes that form no character become U+FFFD."""


@dataclass(slots=True)
class Piece:
    """What a push brought. Not frozen, because one is made for each token, and that would take twice as long.

    Attributes:
        text: text that is certain now; never half a character, never part of a stop string.
        num_tokens: tokens consumed; fewer than pushed if a stop string was completed before the last.
        is_stopped: whether a stop string was completed; nothing may be pushed after that.
    """

    text: str
    num_tokens: int
    is_stopped: bool = False


class TextStream:
    """Incremental detokenising with stop strings.

    However the ids are split over pushes, the texts add up to the same: what decoding all ids at once gives, up to
    the first stop string. Ids are decoded together with those since the last emission before the last one, because
    some tokenizers' text for a token depends on its neighbours.

    Args:
        stop: strings that end the text; the one completed first wins, of several the one that begins first.
        min_tokens: tokens whose text is not searched for them.
    """

    def __init__(self, decoder: Decoder, stop: tuple[str, ...] = (), min_tokens: int = 0) -> None:
        self._decoder = decoder
        self._stop = stop
        self._num_unsearched = min_tokens if stop else 0
        self._token_ids: list[int] = []
        self._context_length = 0
        self._context_text = ""
        self._held = ""

    def push(self, token_ids: list[int]) -> Piece:
        """Add the next tokens."""
        if not self._stop:
            return Piece(self._decode(token_ids), len(token_ids))
        # One by one, so that the count of tokens up to the stop string does not depend on how they were grouped.
        texts = []
        for count, token_id in enumerate(token_ids, start=1):
            if self._num_unsearched:
                self._num_unsearched -= 1
                texts.append(self._decode([token_id]))
                continue
            text, is_stopped = self._cut(self._held + self._decode([token_id]))
            texts.append(text)
            if is_stopped:
                return Piece("".join(texts), count, is_stopped=True)
        return Piece("".join(texts), len(token_ids))

    def finish(self) -> Piece:
        """No more tokens: everything that was held back, a character cut in the middle as U+FFFD."""
        rest = self._decoder.decode(self._token_ids)[len(self._context_text) :]
        self._token_ids = []
        self._context_text = ""
        text, is_stopped = self._cut(self._held + rest)
        held, self._held = self._held, ""
        return Piece(text if is_stopped else text + held, 0, is_stopped)

    def _decode(self, token_ids: list[int]) -> str:
        self._token_ids += token_ids
        text = self._decoder.decode(self._token_ids)
        if text.endswith(REPLACEMENT) and len(self._token_ids) - self._context_length > _MAX_PENDING:
            return self._settle(text)
        if text.endswith(REPLACEMENT) or len(text) <= len(self._context_text):
            return ""
        new = text[len(self._context_text) :]
        self._token_ids = self._token_ids[self._context_length :]
        self._context_length = len(self._token_ids)
        self._context_text = self._decoder.decode(self._token_ids)
        return new

    def _settle(self, text: str) -> str:
        """Give out what is certain of a text that goes on ending in broken characters.

        Decoding all of it again for each token would take a time that grows with the square of their number.
        """
        last = len(self._token_ids) - _NUM_LEFT
        for at in range(last, last - _NUM_LEFT, -1):
            head = self._decoder.decode(self._token_ids[:at])
            if head + self._decoder.decode(self._token_ids[at:]) == text:  # no character is cut there
                new = head[len(self._context_text) :]
                self._token_ids = self._token_ids[at:]
                self._context_length = 0
                self._context_text = ""
                return new
        return ""

    def _cut(self, text: str) -> tuple[str, bool]:
        """Split off what must not be said (yet): the first stop string and all after it, or the start of one."""
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        longest = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest], False


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is the start of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
