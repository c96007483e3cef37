"""Whether each group's process lives, asked of the process itself, because Triton calls a dead one ready.

When one has died, whoever waits for its answers is told. A busy process is not dead: load alone, however heavy, only
makes it answer late. Runs on the event loop; heals nothing, see keeper/.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from proxy.backend import Backend, ModelState
from proxy.errors import ApiError, DeadlineError, ProcessDeadError

_log = logging.getLogger(__name__)


class Pulses:
    """One companion task per model that Triton calls ready.

    Args:
        pass_timeout: seconds that a forward pass, or a silence, may last.
        interval: seconds between an answer and the next question.
    """

    def __init__(self, backend: Backend, pass_timeout: float = 300.0, interval: float = 1.0) -> None:
        self._backend = backend
        self._pass_timeout = pass_timeout
        self._interval = interval
        self._illnesses: dict[str, str] = {}
        self._companions: dict[str, asyncio.Task[None]] = {}
        self._away: set[str] = set()

    def illness(self, name: str) -> str | None:
        """What is wrong with a model that Triton calls ready."""
        return self._illnesses.get(name)

    def follow(self, models: Iterable[ModelState]) -> None:
        """Learn what Triton says of its models, and look after those that are ready."""
        ready = {model.name for model in models if model.state == "READY"}
        for name in self._companions.keys() - ready:
            self._companions.pop(name).cancel()
            self._illnesses.pop(name, None)
            self._away.add(name)
        for name in ready - self._companions.keys():
            if name in self._away:
                # It was unloaded and loaded: should its old process still owe answers, they will not come.
                self._away.remove(name)
                self._backend.abandon(name, f"The process of the model {name!r} was replaced. Please try again.")
            self._companions[name] = asyncio.create_task(self._accompany(name))

    async def close(self) -> None:
        """End the companions."""
        for companion in self._companions.values():
            companion.cancel()
        if self._companions:
            await asyncio.wait(self._companions.values())

    async def _accompany(self, name: str) -> None:
        silent_since: float | None = None
        clock = asyncio.get_running_loop().time
        while True:
            asked = clock()
            try:
                illness, silent_since = await self._examine(name), None
            except DeadlineError:
                silent_since = asked if silent_since is None else silent_since
                silent = clock() - silent_since
                illness = f"it has answered nothing for {silent:.0f} s" if silent > self._pass_timeout else None
            self._note(name, illness)
            await asyncio.sleep(self._interval)

    async def _examine(self, name: str) -> str | None:
        try:
            pulse = await self._backend.pulse(name)
        except DeadlineError:
            raise
        except ProcessDeadError:
            return "its process has died and is replaced"
        except ApiError:
            return None  # unloaded meanwhile, or Triton has gone: the index tells
        except Exception:
            _log.exception("group %s could not be asked for its pulse", name)
            return None
        if not pulse.is_serving:
            return "its engine has died and is replaced"
        if pulse.pass_seconds > self._pass_timeout:
            return f"its forward pass has lasted {pulse.pass_seconds:.0f} s"
        return None

    def _note(self, name: str, illness: str | None) -> None:
        if illness is None:
            self._illnesses.pop(name, None)
            return
        if name not in self._illnesses:
            _log.error("group %s is ill: %s", name, illness)
        self._illnesses[name] = illness
        self._backend.abandon(name, f"The model {name!r} is not available: {illness}. Please try again.")
