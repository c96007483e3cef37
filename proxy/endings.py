"""Calls that have been answered and have not ended, heard to their end beside everything else.

Triton 2.51 keeps a request for ever whose call is cancelled between its last response and its end: 5 KB each, and the
model, whose process then outlives every unloading. So nothing that an asker does may cancel a call there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

# The end comes right after the last response. Where it does not, something hangs, and the call is cancelled after all.
_END_SECONDS = 5.0


class Endings:
    """The calls that are being heard to their end. Belongs to one event loop."""

    def __init__(self) -> None:
        self._hearing: set[asyncio.Task[None]] = set()

    def hear(self, call: Any) -> None:
        """Take over a gRPC call that nobody else reads any more."""
        task = asyncio.create_task(_hear(call))
        self._hearing.add(task)
        task.add_done_callback(self._hearing.discard)

    async def close(self) -> None:
        """Wait until all have ended, which takes seconds at most."""
        if self._hearing:
            await asyncio.wait(self._hearing)


async def _hear(call: Any) -> None:
    try:
        with suppress(Exception):  # nothing may spoil an answer that is complete
            async with asyncio.timeout(_END_SECONDS):
                async for _ in call:
                    pass
    finally:
        call.cancel()  # does nothing to a call that has ended
