"""`GET /health`: this process lives. `GET /health/ready`: at least one group can answer."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from sanic import Blueprint, HTTPResponse, Request, raw

from proxy.context import context
from proxy.errors import ErrorBody, ErrorDetail, UnavailableError, describe
from proxy.group import GroupState

health = Blueprint("health")


class GroupHealth(msgspec.Struct):
    """How one group is, and why it is not ready."""

    name: str
    state: GroupState
    reason: str


class Health(msgspec.Struct):
    """How the service is; `error` says why nobody can be answered."""

    status: Literal["ok", "unavailable"]
    groups: list[GroupHealth] | UnsetType = UNSET
    error: ErrorDetail | UnsetType = UNSET


async def alive(_request: Request) -> HTTPResponse:
    """Say that the process answers, whatever Triton does."""
    return raw(msgspec.json.encode(Health("ok")), content_type="application/json")


async def ready(request: Request) -> HTTPResponse:
    """Say which groups are ready; 503 when none is."""
    groups = context(request).groups
    states = [GroupHealth(group.name, group.state, group.reason) for group in await groups.current()]
    if any(group.state == "ready" for group in states):
        return raw(msgspec.json.encode(Health("ok", states)), content_type="application/json")
    error = groups.failure or UnavailableError("No consumer group is ready.")
    body: ErrorBody = describe(error)
    return raw(
        msgspec.json.encode(Health("unavailable", states, body.error)),
        status=503,
        headers=error.headers,
        content_type="application/json",
    )


health.add_route(alive, "/health", methods=["GET", "HEAD"])
health.add_route(ready, "/health/ready", methods=["GET", "HEAD"])
