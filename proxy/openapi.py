"""`GET /openapi.json` and `GET /docs`: the API's description, made of the types that validate its requests."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from sanic import Blueprint, HTTPResponse, Request, html, raw

from proxy import docs_page
from proxy.errors import ErrorBody
from proxy.routes import OPENAI, Api, Route
from proxy.version import VERSION

_REFERENCE = "#/components/schemas/{name}"
_REASONS = {
    400: "The request is wrong; `param` names the field.",
    401: "No API key, or not one of ours.",
    403: "A web page asks whose origin is not allowed.",
    404: "There is no such group, or no such route.",
    408: "The request was not sent in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "The group is full, or the key has had its share; see Retry-After.",
    500: "The server failed.",
    503: "The group is loading or ill; see Retry-After.",
    504: "The deadline has passed.",
}


@cache
def description(api: Api = OPENAI) -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    types = [kind for route in api.routes for kind in (route.body, route.answer, route.event) if kind] + [ErrorBody]
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REFERENCE)
    of = dict(zip(unique, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in api.routes:
        paths.setdefault(route.path, {})[route.method] = _operation(route, of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": api.title,
            "version": VERSION,
            "description": api.summary,
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    failures = route.failures if route.is_open else (401, *route.failures)
    content: dict[str, Any] = {}
    if route.answer is not None:
        content["application/json"] = {"schema": schemas[route.answer]}
    if route.text_events:
        # No type: readers of descriptions disagree on whether it would be the stream's or each event's.
        content["text/event-stream"] = {"schema": {"description": route.text_events}}
    if route.event is not None:
        content["text/event-stream"] = {
            "schema": {
                "type": "string",
                "description": route.event_stream,
                "contentMediaType": "application/json",
                "contentSchema": {"anyOf": [schemas[route.event], schemas[ErrorBody]]},
            }
        }
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method}{route.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "responses": {
            "200": {"description": "The answer.", "content": content},
            **{str(status): _failure(route, status, schemas) for status in sorted(failures)},
        },
    }
    if "{id}" in route.path:
        operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    if route.body is not None:
        body = {"required": True, "content": {"application/json": {"schema": schemas[route.body]}}}
        operation["requestBody"] = body
    if not route.is_open:
        operation["security"] = [{}, {"key": []}]
    return operation


def _failure(route: Route, status: int, schemas: dict[Any, Any]) -> dict[str, Any]:
    # A service that is not ready says with the error how its groups are.
    schema = schemas[route.answer if route.is_open else ErrorBody]
    return {"description": _REASONS[status], "content": {"application/json": {"schema": schema}}}


def describing(api: Api) -> Blueprint:
    """The two routes that show the description of `api`, to programs and to people."""
    blueprint = Blueprint(f"describing {api.title}".replace(" ", "_"))

    async def show_description(_request: Request) -> HTTPResponse:
        return raw(msgspec.json.encode(description(api)), content_type="application/json")

    async def show_page(_request: Request) -> HTTPResponse:
        return html(page(api), headers={"content-security-policy": docs_page.CONTENT_SECURITY_POLICY})

    blueprint.add_route(show_description, "/openapi.json", methods=["GET", "HEAD"])
    blueprint.add_route(show_page, "/docs", methods=["GET", "HEAD"])
    return blueprint


@cache
def page(api: Api) -> str:
    """The page, made once."""
    return docs_page.render(description(api))
