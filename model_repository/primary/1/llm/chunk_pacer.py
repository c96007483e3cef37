"""How many tokens of prompts a pass may take while answers are streamed. Imports no torch; engine thread."""

# Even where every pass takes too long, prompts get on.
MIN_TOKENS = 32

# How many times as long a pass may take while more wait for their first token than would notice the gap.
MAX_PATIENCE = 3.0


class ChunkPacer:
    """Keeps passes that hold up running streams short, by what earlier passes took.

    A pass beside streams is the gap in all of them. How long a token of a prompt takes depends on the model, the
    machine, its neighbours and the tokens before it, so it is measured, not set. Where passes without prompts take
    long themselves, a pass with some may take twice as long as they do.

    A burst of requests is begun together: where more short prompts wait than answers are streamed, a pass may take as
    many times as long as there are prompts to a stream, up to `MAX_PATIENCE`.

    Args:
        max_seconds: how long a pass may take.
        max_tokens: more are never taken.

    Attributes:
        num_tokens: what fits into a pass of `max_seconds`, of all prompts together.
    """

    def __init__(self, *, max_seconds: float, max_tokens: int) -> None:
        self.num_tokens = max(1, max_tokens // 4)
        self._max_seconds = max_seconds
        self._max_tokens = max_tokens
        self._min_tokens = min(MIN_TOKENS, max_tokens)
        self._decode_seconds = 0.0
        self._patience = 1.0

    def take(self, *, num_streams: int, num_short_prompts: int) -> int:
        """How many tokens of prompts the next pass may take, beside at least one stream.

        A short prompt has not been begun and has at most `num_tokens` to be computed.
        """
        self._patience = min(MAX_PATIENCE, max(1.0, num_short_prompts / num_streams))
        return int(self.num_tokens * self._patience)

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Take note that a pass with so many tokens of prompts took so long. The number at most halves or doubles."""
        num_tokens, seconds = int(num_tokens / self._patience), seconds / self._patience
        self._patience = 1.0
        if num_tokens == 0:
            self._decode_seconds += (seconds - self._decode_seconds) / 8
            return
        limit = max(self._max_seconds, 2 * self._decode_seconds)
        fitting = int(num_tokens * limit / max(seconds, 1e-9))
        if seconds > limit:
            self.num_tokens = max(self._min_tokens, self.num_tokens // 2, min(fitting, self.num_tokens))
        elif num_tokens >= self.num_tokens:
            self.num_tokens = min(self._max_tokens, self.num_tokens * 2, fitting)
