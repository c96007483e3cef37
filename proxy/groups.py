"""The consumer groups: which exist, which are ready, and what each says about itself.

The list is refreshed in the background and whenever a request names a group that is not known to be ready. Runs on
the event loop; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from proxy.backend import Backend, ModelDescription, ModelState
from proxy.errors import ApiError, ModelNotFoundError, UnavailableError
from proxy.group import Group, GroupState, Replica, group_of, grouped
from proxy.pulses import Pulses

_log = logging.getLogger(__name__)

# Triton's words for a version of a model; one that was never loaded has the empty state.
_STATES: dict[str, GroupState] = {"READY": "ready", "LOADING": "loading"}

# A list of groups waits for Triton no longer than this.
_LOOK_SECONDS = 0.5


class Groups:
    """Maps names to groups, no older than `interval` seconds while `run` is running.

    Args:
        loads: what each Triton model that loads is doing, as far as somebody knows.
        trust: seconds after which a ready model is asked again what it is: it may have been replaced.
    """

    def __init__(
        self,
        backend: Backend,
        interval: float = 1.0,
        pulses: Pulses | None = None,
        loads: Callable[[], Mapping[str, str]] = dict[str, str],
        trust: float = 5.0,
    ) -> None:
        self._trust = trust
        self._backend = backend
        self._pulses = pulses or Pulses(backend)
        self._loads = loads
        self._loading_since: dict[str, float] = {}
        self._interval = interval
        self._groups: dict[str, Group] = {}
        self._called: dict[str, Group] = {}
        self._failure: ApiError | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def all(self) -> list[Group]:
        """Every group of the repository, by name."""
        return [self._groups[name] for name in sorted(self._groups)]

    @property
    def failure(self) -> ApiError | None:
        """Why the last refresh failed, when it did."""
        return self._failure

    async def run(self) -> None:
        """Refresh until cancelled; a refresh under way ends with it."""
        try:
            while True:
                await self.refresh()
                await asyncio.sleep(self._interval)
        finally:
            if self._refreshing is not None:
                self._refreshing.cancel()
                await asyncio.wait([self._refreshing])
            await self._pulses.close()

    async def refresh(self) -> None:
        """Ask Triton again, or join a refresh that is under way: there is never more than one."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        # A caller that gives up must not take the refresh away from the others.
        await asyncio.shield(self._refreshing)

    async def current(self) -> list[Group]:
        """Every group, by name; unless all are known to be ready, Triton is asked once more first.

        So a process that has just started, or one that looked a moment too early, does not deny what serves.
        """
        if not self._groups or any(group.state != "ready" for group in self._groups.values()):
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self.refresh()
        return self.all

    def find(self, name: str) -> Group | None:
        """The group that has this name, of its own or as an alias."""
        return self._called.get(name)

    def replicas(self, name: str) -> Sequence[str]:
        """The Triton models that can answer for the group `name` right now."""
        group = self.find(name)
        return () if group is None else group.ready_replicas

    async def ready(self, name: str) -> ModelDescription:
        """Return the description of the ready group that is called `name`.

        Raises:
            ModelNotFoundError: the repository has no such model.
            UnavailableError: it has, but the group is not ready, or Triton does not answer.
        """
        description = self._description(name)
        if description is None:
            await self.refresh()
            description = self._description(name)
        if description is not None:
            return description
        group = self.find(name)
        if group is not None and group.state == "loading":
            raise UnavailableError(f"The model {name!r} is still loading: {group.reason}.", param="model")
        if self._failure is not None:
            raise UnavailableError(self._failure.message)
        if group is None:
            self._refuse_to_guess(name)
            known = ", ".join(f"'{known}'" for known in sorted(self._groups)) or "none"
            raise ModelNotFoundError(
                f"The model {name!r:.100} does not exist. Existing consumer groups: {known}.", param="model"
            )
        reason = f": {group.reason}" if group.reason else "."
        raise UnavailableError(f"The model {name!r} is not available{reason}", param="model")

    def _description(self, name: str) -> ModelDescription | None:
        group = self.find(name)
        return None if group is None else group.description

    def _refuse_to_guess(self, name: str) -> None:
        """A group that has not said anything yet may have `name` as an alias."""
        for group in self.all:
            if group.state == "loading" and group.aliases is None:
                raise UnavailableError(
                    f"No model {name!r:.100} is ready, and {group.name!r} is still loading. Please try again.",
                    param="model",
                )

    async def _refresh(self) -> None:
        try:
            index = await self._backend.index()
        except ApiError as error:
            self._fail(error)
            return
        except Exception:
            _log.exception("the list of groups could not be refreshed")
            self._fail(UnavailableError("The list of models could not be read. Please try again."))
            return
        if self._failure is not None:
            _log.info("Triton answers again")
        self._failure = None
        models = _by_name(index)
        self._pulses.follow(models)
        self._take(grouped(await asyncio.gather(*(self._look(model) for model in models))))

    def _take(self, groups: list[Group]) -> None:
        for group in groups:
            before = self._groups.get(group.name)
            is_same = before is not None and before.state == group.state
            if not is_same or (before is not None and before.reason != group.reason and not group.is_loading):
                _log.info("group %s is %s %s", group.name, group.state, group.reason)
        self._keep({group.name: self._named(group) for group in groups})

    def _keep(self, groups: dict[str, Group]) -> None:
        """Take these for all there are, and index them by every name: a group's own goes before another's alias."""
        self._groups = groups
        aliases = {alias: groups[name] for name in sorted(groups, reverse=True) for alias in groups[name].names}
        self._called = aliases | groups

    def _named(self, group: Group) -> Group:
        """With its aliases, which a group that is away keeps, so that they are answered with a 503 as well."""
        before = self._groups.get(group.name)
        if group.description is not None:
            return replace(group, aliases=group.description.aliases)
        return replace(group, aliases=before.aliases if before is not None else None)

    def _fail(self, error: ApiError) -> None:
        if self._failure is None:
            _log.warning("%s", error.message)
        self._failure = error
        loading = grouped(Replica(name, "loading", reason) for name, reason in self._loads().items())
        lost = {name: group.lost(error.message) for name, group in self._groups.items()}
        self._keep(lost | {group.name: self._named(group) for group in loading})

    async def _look(self, model: ModelState) -> Replica:
        state = _STATES.get(model.state, "unavailable")
        if state == "loading":
            return Replica(model.name, state, self._loads().get(model.name) or self._time_so_far(model.name))
        self._loading_since.pop(model.name, None)
        if state != "ready":
            return Replica(model.name, state, model.reason or "" if model.state else "not loaded")
        if (illness := self._pulses.illness(model.name)) is not None:
            return Replica(model.name, "unavailable", illness)
        known = self._known(model.name)
        if known is not None and time.time() - known.described < self._trust:
            return known
        try:
            description = await self._backend.describe(model.name)
        except ApiError as error:
            # One that was ready is no worse for a late answer: whether it lives is for the pulses to say.
            return known or Replica(model.name, "unavailable", error.message)
        except Exception:
            _log.exception("group %s could not be asked for its description", model.name)
            return Replica(model.name, "unavailable", "it could not be asked for its description")
        since = int(time.time()) if known is None or known.description != description else known.since
        return Replica(model.name, "ready", "", description, since, time.time())

    def _time_so_far(self, model: str) -> str:
        since = self._loading_since.setdefault(model, time.monotonic())
        return f"{time.monotonic() - since:.0f} s so far"

    def _known(self, model: str) -> Replica | None:
        """The ready replica as it was seen before."""
        group = self._groups.get(group_of(model))
        replicas = group.replicas if group is not None else ()
        return next((known for known in replicas if known.name == model and known.description is not None), None)


def _by_name(index: list[ModelState]) -> list[ModelState]:
    """Keep one line per model: a model with several versions is as ready as its readiest one."""
    best: dict[str, ModelState] = {}
    for model in index:
        before = best.get(model.name)
        if before is None or _rank(model) > _rank(before):
            best[model.name] = model
    return list(best.values())


def _rank(model: ModelState) -> int:
    return {"READY": 2, "LOADING": 1}.get(model.state, 0)
