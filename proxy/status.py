"""`GET /status`: what runs here and how each group is. `GET /healthz`: at least one group can answer."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from sanic import Blueprint, HTTPResponse, Request, raw

from proxy.context import context
from proxy.group import Group, GroupState
from proxy.health import ready
from proxy.version import VERSION

status = Blueprint("status")


class GroupStatus(msgspec.Struct):
    """One group. What it says of its model is there while it is ready, `reason` while it is not."""

    consumer_group: str
    state: GroupState
    reason: str
    model_name: str | UnsetType = UNSET
    device: str | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    max_sequence_length: int | UnsetType = UNSET
    max_batch_size: int | UnsetType = UNSET


class Status(msgspec.Struct):
    """The service. `live` says that at least one group can answer."""

    status: Literal["live", "unavailable"]
    version: str
    groups: list[GroupStatus]


async def show_status(request: Request) -> HTTPResponse:
    """Say how the service is; always a 200, also when no group can answer."""
    groups = context(request).groups.all
    state: Literal["live", "unavailable"] = "live" if any(g.state == "ready" for g in groups) else "unavailable"
    body = Status(state, VERSION, [_status(group) for group in groups])
    return raw(msgspec.json.encode(body), content_type="application/json", headers={"cache-control": "no-store"})


def _status(group: Group) -> GroupStatus:
    status, described = GroupStatus(group.name, group.state, group.reason), group.description
    if described is not None:
        status.model_name = described.name
        status.device = described.device
        status.dtype = described.dtype
        status.max_sequence_length = described.max_model_len
        status.max_batch_size = described.max_num_sequences
    return status


status.add_route(show_status, "/status", methods=["GET", "HEAD"])
status.add_route(ready, "/healthz", methods=["GET", "HEAD"])
