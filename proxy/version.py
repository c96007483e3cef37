"""`GET /version`: what is running here."""

from __future__ import annotations

import msgspec
from sanic import Blueprint, HTTPResponse, Request, raw

VERSION = "0.1.0"

version = Blueprint("version")


class Version(msgspec.Struct):
    """The service's version."""

    version: str


async def show_version(_request: Request) -> HTTPResponse:
    """Say which version of Slipstream answers."""
    return raw(msgspec.json.encode(Version(VERSION)), content_type="application/json")


version.add_route(show_version, "/version", methods=["GET", "HEAD"])
