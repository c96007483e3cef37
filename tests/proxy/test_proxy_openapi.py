"""The API's description is valid, complete, and what the service does."""

from __future__ import annotations

import json
import re

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from proxy.config import ProxyConfig
from proxy.openapi import description
from proxy.server import create_app
from tests.proxy.conftest import Server
from tests.proxy.fakes import FakeBackend


def test_the_description_is_valid_openapi() -> None:
    validate(description())


def test_every_route_is_described_and_every_description_has_a_route() -> None:
    app = create_app(ProxyConfig(), FakeBackend(), name="described")
    real = {
        (method.lower(), "/" + re.sub(r"<\w+:path>", "{id}", route.path))
        for route in app.router.routes
        for method in route.methods
        if method in ("GET", "POST")
    }
    described = {(method, path) for path, methods in description()["paths"].items() for method in methods}
    # The page and the description do not describe themselves, and metrics are no API.
    assert real - {("get", "/docs"), ("get", "/openapi.json"), ("get", "/metrics")} == described
    type(app).unregister_app(app)


def validator(name: str) -> Draft202012Validator:
    components = json.loads(json.dumps(description()["components"]))
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components})


async def test_a_streams_events_are_what_is_described(server: Server) -> None:
    for path, body, name in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "ChatChunk"),
        ("/v1/completions", {"prompt": "Hi"}, "Completion"),
    ):
        asked = {"model": "primary", "stream": True, "stream_options": {"include_usage": True}, **body}
        response = await server.http.post(path, json=asked)
        lines = [line for line in response.text.split("\n\n") if line]
        assert lines.pop() == "data: [DONE]"
        for line in lines:
            validator(name).validate(json.loads(line.removeprefix("data: ")))


async def test_the_page_names_every_route_and_asks_for_nothing(server: Server) -> None:
    response = await server.http.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for path in description()["paths"]:
        assert f"{path}</code>" in response.text
    assert not re.search(r"<script|src=|https?://", response.text)


async def test_a_key_stands_in_the_description_and_is_not_needed_for_health() -> None:
    paths = description()["paths"]
    assert paths["/v1/models"]["get"]["security"] == [{}, {"key": []}]
    assert "security" not in paths["/health"]["get"]
