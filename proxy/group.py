"""A consumer group and its replicas: one or more models of Triton's repository, `small`, `small--2` and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from proxy.backend import ModelDescription

GroupState = Literal["ready", "loading", "unavailable"]

_RANKS: dict[GroupState, int] = {"ready": 2, "loading": 1, "unavailable": 0}

# docs/tensor-contract.md: how the second and later replicas of a group are called.
_REPLICA = re.compile(r"(?P<group>.+)--\d+")


@dataclass(frozen=True, slots=True)
class Replica:
    """One Triton model; `description` is there exactly when it is ready. `since` and `described` are Unix times."""

    name: str
    state: GroupState
    reason: str = ""
    description: ModelDescription | None = None
    since: int = 0
    described: float = 0.0


@dataclass(frozen=True)
class Group:
    """One consumer group, which is as ready as its readiest replica.

    `aliases` are more names under which it may be asked for; None until it has said so.
    """

    name: str
    replicas: tuple[Replica, ...]
    aliases: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which it may be asked for."""
        return self.name, *(self.aliases or ())

    @property
    def state(self) -> GroupState:
        """How its readiest replica is."""
        return self._readiest.state

    @property
    def reason(self) -> str:
        """Why it is not ready, or not all of it is."""
        lacking = [replica for replica in self.replicas if replica.state != "ready"]
        if len(self.replicas) == 1 or not lacking:
            return self._readiest.reason
        words = ", ".join(f"{replica.name} is {replica.state} ({replica.reason})" for replica in lacking)
        return f"{len(self.replicas) - len(lacking)} of {len(self.replicas)} replicas are ready: {words}"

    @property
    def is_loading(self) -> bool:
        """Whether any of it loads."""
        return any(replica.state == "loading" for replica in self.replicas)

    @property
    def description(self) -> ModelDescription | None:
        """What it says about itself, once it is ready."""
        return self._readiest.description

    @property
    def since(self) -> int:
        """When it became ready, as a Unix time."""
        return self._readiest.since

    def lost(self, reason: str) -> Group:
        """The group as it is while nothing can be asked."""
        replicas = (replace(r, state="unavailable", reason=reason, description=None) for r in self.replicas)
        return replace(self, replicas=tuple(replicas))

    @cached_property
    def ready_replicas(self) -> tuple[str, ...]:
        """The Triton models that can answer for it."""
        return tuple(replica.name for replica in self.replicas if replica.state == "ready")

    @cached_property
    def _readiest(self) -> Replica:
        return max(self.replicas, key=lambda replica: _RANKS[replica.state])


def group_of(model: str) -> str:
    """The group that a Triton model belongs to."""
    match = _REPLICA.fullmatch(model)
    return match["group"] if match else model


def grouped(replicas: Iterable[Replica]) -> list[Group]:
    """The groups that these replicas make, each with its first replica first."""
    groups: dict[str, list[Replica]] = {}
    for replica in sorted(replicas, key=lambda replica: (len(replica.name), replica.name)):
        groups.setdefault(group_of(replica.name), []).append(replica)
    return [Group(name, tuple(members)) for name, members in groups.items()]
