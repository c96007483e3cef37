"""`GET /status`: what runs here and how each group is. `GET /healthz`: at least one group can answer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sanic import Blueprint, HTTPResponse, Request, raw

from proxy.backend import Load
from proxy.context import context
from proxy.group import Group, GroupState
from proxy.health import ready
from proxy.version import VERSION

status = Blueprint("status")


class LoadStatus(msgspec.Struct):
    """How busy a group is: sequences that are answered and that wait, and its cache of keys and values."""

    running: int
    waiting: int
    kv_cache_tokens: int
    kv_cache_usage: Annotated[float, Meta(ge=0, le=1)]


class GroupStatus(msgspec.Struct):
    """One group of so many replicas. What it says of its model is there while it is ready, `reason` while some are not.

    `load` is left out when the group does not say at once how busy it is.
    """

    consumer_group: str
    state: GroupState
    reason: str
    replicas: int
    model_name: str | UnsetType = UNSET
    device: str | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    max_sequence_length: int | UnsetType = UNSET
    max_batch_size: int | UnsetType = UNSET
    load: LoadStatus | UnsetType = UNSET


class Status(msgspec.Struct):
    """The service. `live` says that at least one group can answer."""

    status: Literal["live", "unavailable"]
    version: str
    groups: list[GroupStatus]


async def show_status(request: Request) -> HTTPResponse:
    """Say how the service is; always a 200, also when no group can answer."""
    groups = await context(request).groups.current()
    state: Literal["live", "unavailable"] = "live" if any(g.state == "ready" for g in groups) else "unavailable"
    loads = await request.app.ctx.loads.of([group.name for group in groups if group.state == "ready"])
    body = Status(state, VERSION, [_status(group, loads.get(group.name)) for group in groups])
    return raw(msgspec.json.encode(body), content_type="application/json", headers={"cache-control": "no-store"})


def _status(group: Group, load: Load | None) -> GroupStatus:
    status, described = GroupStatus(group.name, group.state, group.reason, len(group.replicas)), group.description
    if described is not None:
        status.model_name = described.name
        status.device = described.device
        status.dtype = described.dtype
        status.max_sequence_length = described.max_model_len
        status.max_batch_size = described.max_num_sequences
    if load is not None:
        usage = load.kv_cache_used_tokens / max(load.kv_cache_tokens, 1)
        status.load = LoadStatus(load.num_running, load.num_waiting, load.kv_cache_tokens, usage)
    return status


status.add_route(show_status, "/status", methods=["GET", "HEAD"])
status.add_route(ready, "/healthz", methods=["GET", "HEAD"])
