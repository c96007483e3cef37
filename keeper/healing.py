"""Has Triton load what it shall serve, notices models that cannot serve any more, and replaces their process.

Runs on the event loop.

A model is ill when its process has ended, when it says so itself, when its forward pass lasts too long, or when it has
answered nothing for as long. Load alone makes nobody ill: a busy process, or a starved one that Triton already calls
unhealthy, may take its time as long as it is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from keeper.group_locks import GroupLocks
from keeper.load_error import LoadError
from keeper.triton import ModelState, SilenceError, Triton, TritonAwayError, TritonError, UnhealthyError

_log = logging.getLogger(__name__)

# Between finding a process dead and replacing it: the proxies ask every second too, and must see that it died, to end
# the answers that it owes.
_NOTICE_SECONDS = 3.0
_MAX_BACKOFF_SECONDS = 60.0
# One that has served for so long since it was healed starts again without backoff.
_STABLE_SECONDS = 120.0


class Processes(Protocol):
    """Sees and ends the processes of models."""

    def is_running(self, model: str) -> bool:
        """Whether the model has a process, stopped or hung as it may be."""
        ...

    def kill(self, model: str) -> int:
        """End the model's processes at once; return how many there were."""
        ...


@dataclass
class _Chart:
    """What is remembered of a group. Times are of `time.monotonic`."""

    silent_since: float | None = None
    is_wanted: bool = False  # it shall serve
    has_served: bool = False
    num_attempts: int = 0
    healed_at: float = 0.0
    not_before: float = 0.0


class Healing:
    """Visits every group each `interval` seconds.

    Args:
        pass_timeout: seconds that a forward pass, or a silence, may last.
        notice: seconds between the finding and the healing.
        wanted: models that shall serve whether they have before or not.
        is_first_start: one of these that cannot be loaded ends `run`, for nothing has served yet.
    """

    def __init__(
        self,
        triton: Triton,
        processes: Processes,
        locks: GroupLocks,
        pass_timeout: float,
        interval: float = 1.0,
        notice: float = _NOTICE_SECONDS,
        wanted: Iterable[str] = (),
        is_first_start: bool = False,
    ) -> None:
        self._triton = triton
        self._processes = processes
        self._locks = locks
        self._pass_timeout = pass_timeout
        self._interval = interval
        self._notice = notice
        self._charts = {model: _Chart(is_wanted=True) for model in wanted}
        self._is_first_start = is_first_start
        self._failure: LoadError | None = None
        self._visits: dict[str, asyncio.Task[None]] = {}

    def forget(self, group: str) -> None:
        """Take a group that is removed on purpose for what it is. Call it with the group's lock held."""
        self._charts.pop(group, None)

    async def run(self) -> None:
        """Look after all groups until cancelled.

        Raises:
            LoadError: one could not be loaded at the first start.
        """
        try:
            while True:
                if self._failure is not None:
                    raise self._failure
                await self._make_rounds()
                await asyncio.sleep(self._interval)
        finally:
            for visit in self._visits.values():
                visit.cancel()

    async def _make_rounds(self) -> None:
        try:
            models = await self._triton.index()
        except TritonError:
            return  # it starts, ends, or is too busy: the launcher looks after Triton itself
        for model in models:
            visit = self._visits.get(model.name)
            if visit is None or visit.done():  # a slow group does not keep the others waiting
                self._visits[model.name] = asyncio.create_task(self._visit(model))

    async def _visit(self, model: ModelState) -> None:
        chart = self._charts.setdefault(model.name, _Chart())
        if self._locks.of(model.name).locked():
            return
        try:
            if not model.state and chart.is_wanted and time.monotonic() >= chart.not_before:
                await self._load(model.name, chart)
                return
            illness = await self._illness(model, chart)
            if illness is not None and time.monotonic() >= chart.not_before:
                await self._heal(model.name, chart, illness)
        except Exception:
            _log.exception("group %s could not be looked after", model.name)

    async def _illness(self, model: ModelState, chart: _Chart) -> str | None:
        """What is wrong with a group that ought to serve."""
        if model.state == "READY":
            chart.is_wanted = chart.has_served = True
            return await self._examine(model.name, chart)
        if model.state != "UNAVAILABLE":
            return None  # on its way, or not wanted
        if model.reason == "unloaded":
            self.forget(model.name)
            return None
        return f"it did not load: {model.reason}" if chart.is_wanted else None

    async def _examine(self, group: str, chart: _Chart) -> str | None:
        try:
            pulse = await self._triton.pulse(group)
        except UnhealthyError:
            return self._judge_silence(chart) if self._processes.is_running(group) else "its process has died"
        except SilenceError:
            return self._judge_silence(chart)
        except TritonError:
            return None  # unloaded meanwhile, or Triton has gone
        chart.silent_since = None
        if not pulse.is_serving:
            return "its engine has died"
        if pulse.pass_seconds > self._pass_timeout:
            return f"its forward pass has lasted {pulse.pass_seconds:.0f} s"
        return None

    def _judge_silence(self, chart: _Chart) -> str | None:
        now = time.monotonic()
        chart.silent_since = chart.silent_since or now
        silent = now - chart.silent_since
        return f"it has answered nothing for {silent:.0f} s" if silent > self._pass_timeout else None

    async def _load(self, group: str, chart: _Chart) -> None:
        """Load what this Triton has never loaded: it has just started, for the first time or once more."""
        async with self._locks.of(group):
            if self._charts.get(group) is not chart:
                return  # removed meanwhile
            try:
                await self._triton.load(group)
            except TritonAwayError:
                return  # the launcher looks after Triton itself
            except TritonError as error:
                failure = LoadError.of(group, error)
                if self._is_first_start and not chart.has_served:
                    self._failure = self._failure or failure
                    return
                self._back_off(chart)
                _log.error("%s; next attempt in %.0f s", failure, _wait(chart))
                return
            _log.info("group %s is loaded", group)

    async def _heal(self, group: str, chart: _Chart, illness: str) -> None:
        _log.error("group %s is ill: %s; its process is replaced", group, illness)
        async with self._locks.of(group):
            if self._charts.get(group) is not chart:
                return  # removed meanwhile
            began = time.monotonic()
            self._processes.kill(group)
            await asyncio.sleep(self._notice)
            try:
                await self._reload(group)
            except TritonError as error:
                self._back_off(chart)
                _log.error("group %s could not be healed, next attempt in %.0f s: %s", group, _wait(chart), error)
                return
            self._back_off(chart)
            _log.warning("group %s serves again, after %.1f s", group, time.monotonic() - began)

    async def _reload(self, group: str) -> None:
        # `load` alone would keep the dead process; see Triton's behaviour in docs/reliability.md
        await self._triton.unload(group)
        await self._triton.load(group)

    def _back_off(self, chart: _Chart) -> None:
        """Make the next healing of a group that falls ill again at once wait twice as long."""
        now = time.monotonic()
        if now - chart.healed_at > _STABLE_SECONDS:
            chart.num_attempts = 0
        chart.silent_since = None
        chart.healed_at = now
        chart.not_before = now + min(2.0**chart.num_attempts, _MAX_BACKOFF_SECONDS)
        chart.num_attempts += 1


def _wait(chart: _Chart) -> float:
    return max(0.0, chart.not_before - time.monotonic())
