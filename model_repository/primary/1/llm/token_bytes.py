"""What a single token stands for, in bytes: a character can be spread over several tokens. Any thread."""

import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The bytes of each token of a vocabulary.

    Knows the two ways in which vocabularies write bytes: as stand-in characters (byte-level, GPT-2) and as `<0xE2>`
    beside plain text with U+2581 for a space (SentencePiece). Special tokens stand for their name.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._is_byte_level = backend is not None and "ByteLevel" in str(backend.decoder)
        self._byte_of = _bytes_by_character()
        self._known: dict[int, bytes] = {}

    def __call__(self, token_id: int) -> bytes:
        """The token's bytes; none for an id that the tokenizer does not know."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._look_up(token_id)
        return known

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._added:
            return str(self._added[token_id]).encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # the model's vocabulary can be padded beyond the tokenizer's
            return b""
        if self._is_byte_level:
            return b"".join(
                bytes([self._byte_of[c]]) if c in self._byte_of else c.encode(errors="replace") for c in token
            )
        if match := _BYTE.fullmatch(token):
            return bytes([int(match[1], 16)])
        return str(token).replace("\u2581", " ").encode(errors="replace")


def _bytes_by_character() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for the characters from U+0100 on, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
