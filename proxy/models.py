"""`GET /v1/models` and `/v1/models/{id}`: the groups that are ready, and why others are not."""

from __future__ import annotations

from typing import Literal
from urllib.parse import unquote

import msgspec
from sanic import Blueprint, HTTPResponse, Request, raw

from proxy.context import context
from proxy.group import Group, GroupState

models = Blueprint("models")


class Model(msgspec.Struct):
    """A name of a group that is ready; `root` is the model it serves."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int


class NotReady(msgspec.Struct):
    """A group that cannot be asked now, and why."""

    id: str
    state: GroupState
    reason: str


class ModelList(msgspec.Struct):
    """The ready groups, under each of their names; and, beside what OpenAI has, those that are not ready."""

    object: Literal["list"]
    data: list[Model]
    not_ready: list[NotReady]


async def list_models(request: Request) -> HTTPResponse:
    """List the groups that can be asked right now, and say what is wrong with the others."""
    groups = await context(request).groups.current()
    data = [_model(name, group) for group in groups if group.state == "ready" for name in group.names]
    not_ready = [NotReady(group.name, group.state, group.reason) for group in groups if group.state != "ready"]
    return _json(ModelList("list", data, not_ready))


async def retrieve_model(request: Request, name: str) -> HTTPResponse:
    """Describe one group."""
    groups, name = context(request).groups, unquote(name)
    await groups.ready(name)
    group = groups.find(name)
    assert group is not None  # nothing has run since it was found ready
    return _json(_model(name, group))


def _model(name: str, group: Group) -> Model:
    description = group.description
    assert description is not None
    return Model(name, "model", group.since, "slipstream", description.name, description.max_model_len)


def _json(value: msgspec.Struct) -> HTTPResponse:
    return raw(msgspec.json.encode(value), content_type="application/json")


models.add_route(list_models, "/v1/models", methods=["GET", "HEAD"])
models.add_route(retrieve_model, "/v1/models/<name:path>", methods=["GET", "HEAD"])
