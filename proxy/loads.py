"""How busy each group is, looked up when somebody wants to see it. Runs on the event loop; knows nothing of HTTP.

However many look, a group is asked again after half a second at the earliest, and nobody waits for one that is slow
to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from proxy.backend import Backend, Load
from proxy.errors import ApiError

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 0.5
_PATIENCE_SECONDS = 1.0


@dataclass
class _Look:
    task: asyncio.Task[Load | None]
    began: float = field(default_factory=time.monotonic)

    @property
    def is_current(self) -> bool:
        return not self.task.done() or time.monotonic() - self.began < _FRESH_SECONDS


class Loads:
    """The last look at each group."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._looks: dict[str, _Look] = {}

    async def of(self, groups: list[str]) -> dict[str, Load]:
        """How busy these groups are; one that does not say is left out."""
        tasks = {name: self._look(name) for name in groups}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=_PATIENCE_SECONDS)
        loads = {name: task.result() for name, task in tasks.items() if task.done()}
        return {name: load for name, load in loads.items() if load is not None}

    def _look(self, group: str) -> asyncio.Task[Load | None]:
        look = self._looks.get(group)
        if look is None or not look.is_current:
            look = self._looks[group] = _Look(asyncio.create_task(self._ask(group)))
        return look.task

    async def _ask(self, group: str) -> Load | None:
        try:
            return await self._backend.load(group)
        except ApiError:
            return None
        except Exception:
            _log.exception("group %s could not be asked how busy it is", group)
            return None
