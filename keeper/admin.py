"""The admin API: a few routes over `GroupRoom`, on a port of their own, for whoever has the admin key.

Errors have OpenAI's shape, as on the other ports.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from llm.errors import ConfigError
from manifest import Reader

from keeper.config import KeeperConfig
from keeper.group_room import GroupNotFoundError, GroupRoom
from keeper.load_error import LoadError
from keeper.triton import ModelState, TritonError

_MAX_BODY_BYTES = 1024 * 1024
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _BadRequestError(Exception):
    """The body is not what it should be."""


def create_admin(room: GroupRoom, key: str) -> web.Application:
    """Wire up the routes. `key` is what every request must bring as its bearer token."""

    async def list_groups(_request: web.Request) -> web.Response:
        found = await room.groups()
        return web.json_response({"groups": [_group(name, readers) for name, readers in sorted(found.items())]})

    async def put_group(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        is_new = await room.put(name, await _entries(request))
        return web.json_response(_group(name, (await room.groups())[name]), status=201 if is_new else 200)

    async def delete_group(request: web.Request) -> web.Response:
        await room.remove(request.match_info["name"])
        return web.json_response({"name": request.match_info["name"], "deleted": True})

    app = web.Application(middlewares=[_answering_errors, _asking_for(key)], client_max_size=_MAX_BODY_BYTES)
    app.router.add_get("/groups", list_groups)
    app.router.add_put("/groups/{name}", put_group)
    app.router.add_delete("/groups/{name}", delete_group)
    return app


async def serve_admin(config: KeeperConfig, room: GroupRoom) -> web.AppRunner:
    """Listen; whoever called cleans the runner up. A load takes as long as it takes: there is no time limit."""
    runner = web.AppRunner(create_admin(room, config.admin_key), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, config.admin_host, config.admin_port).start()
    return runner


async def _entries(request: web.Request) -> list[dict[str, Any]]:
    """The readers in the body: one as an object, or several as `{"readers": [...]}`."""
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise _BadRequestError(f"The body is not JSON: {error}.") from None
    entries = body.get("readers", [body]) if isinstance(body, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise _BadRequestError('Give one reader\'s settings as an object, or several as {"readers": [...]}.')
    return entries


def _group(name: str, readers: list[tuple[Reader, ModelState]]) -> dict[str, Any]:
    return {
        "name": name,
        "readers": [
            {
                "model": reader.model,
                "state": state.state or "UNAVAILABLE",
                "reason": state.reason,
                "settings": {**reader.settings, "cuda_visible_devices": str(reader.gpu)},
            }
            for reader, state in readers
        ],
    }


def _asking_for(key: str) -> Any:
    expected = f"Bearer {key}".encode()

    @web.middleware
    async def ask(request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, expected):
            return _error(401, "Bring the admin key as 'Authorization: Bearer KEY'.", "invalid_api_key")
        return await handler(request)

    return ask


@web.middleware
async def _answering_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (ConfigError, _BadRequestError) as error:
        return _error(400, str(error))
    except GroupNotFoundError as error:
        return _error(404, f"There is no consumer group {str(error)!r}.", "model_not_found")
    except LoadError as error:
        return _error(422, str(error), "load_failed")
    except TritonError as error:
        return _error(503, f"Triton cannot be asked: {error}")
    except web.HTTPException as error:
        return _error(error.status, error.reason)


def _error(status: int, message: str, code: str | None = None) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return web.json_response({"error": {"message": message, "type": kind, "param": None, "code": code}}, status=status)
