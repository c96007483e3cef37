"""One lock per group: whoever loads, replaces, removes or heals a group holds it meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict


class GroupLocks:
    """Made on first use. Belongs to one event loop."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def of(self, group: str) -> asyncio.Lock:
        """The group's lock, the same at every call."""
        return self._locks[group]
