"""How much each API key may ask: requests at once and requests per minute.

Counts are those of one proxy process; with several workers each has its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from sanic import Request

from proxy.errors import RateLimitError

ANYBODY = "anybody"


class Admission:
    """Lets requests in, or refuses them with the time to wait.

    Args:
        per_minute: requests that a key may begin in any 60 seconds; 0 is no limit.
        at_once: requests of a key that may be answered at the same time; 0 is no limit.
    """

    def __init__(self, per_minute: int, at_once: int) -> None:
        self._rate = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._window = MovingWindowRateLimiter(MemoryStorage())
        self._at_once = at_once
        self._running: Counter[str] = Counter()

    def admit(self, request: Request) -> AbstractContextManager[None]:
        """Count the request as running within the block.

        Raises:
            RateLimitError: its key has had its share.
        """
        owner = getattr(request.ctx, "owner", ANYBODY)
        self._check_running(owner)
        self._check_rate(request, owner)
        return self._counted(owner) if self._at_once else nullcontext()

    @contextmanager
    def _counted(self, owner: str) -> Iterator[None]:
        self._running[owner] += 1
        try:
            yield
        finally:
            self._running[owner] -= 1
            if not self._running[owner]:
                del self._running[owner]

    def _check_running(self, owner: str) -> None:
        if self._at_once and self._running[owner] >= self._at_once:
            raise RateLimitError(f"{self._at_once} requests of this API key are being answered already.", retry_after=1)

    def _check_rate(self, request: Request, owner: str) -> None:
        if self._rate is None:
            return
        is_admitted = self._window.hit(self._rate, owner)
        window = self._window.get_window_stats(self._rate, owner)
        seconds = max(0.0, window.reset_time - time.time())
        request.ctx.rate_headers = {
            "x-ratelimit-limit-requests": str(self._rate.amount),
            "x-ratelimit-remaining-requests": str(window.remaining),
            "x-ratelimit-reset-requests": f"{seconds:.3f}s",
        }
        if not is_admitted:
            raise RateLimitError(
                f"This API key may begin {self._rate.amount} requests per minute.", retry_after=int(seconds) + 1
            )
