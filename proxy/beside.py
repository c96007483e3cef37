"""A second app on a listener of its own, in the process and on the event loop of a first one.

Sanic can start several apps in a process, but stops all of them but the first without letting their answers finish.
Here the second one puts its connections among the first one's: what Sanic does for these when it stops (it closes
idle ones, waits for busy ones and at last cuts them off), it does for all of them.
"""

from __future__ import annotations

import asyncio
import socket

from sanic.server import serve

from proxy.context import App


def serve_beside(first: App, second: App, listener: socket.socket) -> None:
    """Serve `second` on `listener` from the start of `first`, which is prepared, to its end."""
    settings = first.state.server_info[0].settings
    shared = {name: settings[name] for name in ("signal", "backlog", "connections")}
    # Sanic rewrites its own methods at start-up to leave unused hooks out, which works once per process.
    second.config.TOUCHUP = False

    @first.after_server_start
    async def start(first: App) -> None:
        server = serve(None, None, second, sock=listener, loop=asyncio.get_running_loop(), run_async=True, **shared)
        first.ctx.beside = await server
        await first.ctx.beside.startup()
        await first.ctx.beside.before_start()

    @first.before_server_stop
    async def stop(first: App) -> None:
        first.ctx.beside.server.close()
