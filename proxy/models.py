"""`GET /v1/models` and `/v1/models/{id}`: the groups that are ready."""

from __future__ import annotations

from typing import Literal
from urllib.parse import unquote

import msgspec
from sanic import Blueprint, HTTPResponse, Request, raw

from proxy.backend import ModelDescription
from proxy.context import context
from proxy.groups import Group

models = Blueprint("models")


class Model(msgspec.Struct):
    """A group that is ready; `root` is the model it serves."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int


class ModelList(msgspec.Struct):
    """All groups that are ready."""

    object: Literal["list"]
    data: list[Model]


async def list_models(request: Request) -> HTTPResponse:
    """List the groups that can be asked right now."""
    groups = context(request).groups.all
    return _json(ModelList("list", [_model(g, g.description) for g in groups if g.description is not None]))


async def retrieve_model(request: Request, name: str) -> HTTPResponse:
    """Describe one group."""
    groups, name = context(request).groups, unquote(name)
    description = await groups.ready(name)
    return _json(next(_model(group, description) for group in groups.all if group.name == name))


def _model(group: Group, description: ModelDescription) -> Model:
    return Model(group.name, "model", group.since, "slipstream", description.name, description.max_model_len)


def _json(value: msgspec.Struct) -> HTTPResponse:
    return raw(msgspec.json.encode(value), content_type="application/json")


models.add_route(list_models, "/v1/models", methods=["GET", "HEAD"])
models.add_route(retrieve_model, "/v1/models/<name:path>", methods=["GET", "HEAD"])
