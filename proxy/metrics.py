"""`GET /metrics`: the numbers of all processes of the proxy, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from sanic import Blueprint, HTTPResponse, Request, raw

from proxy.context import context

metrics = Blueprint("metrics")


async def show_metrics(request: Request) -> HTTPResponse:
    """Answer with everything that the proxy has counted."""
    return raw(context(request).meter.page(), content_type=CONTENT_TYPE_LATEST)


metrics.add_route(show_metrics, "/metrics", methods=["GET", "HEAD"])
