"""Letting go of clients when the process has been told to stop.

Sanic stops listening at once, closes idle connections and waits for busy ones, but a busy one goes back to waiting for
its next request. Here the process goes on listening until the last running answer has ended: what comes meanwhile is
refused with a sentence instead of a closed port, and every connection is closed after its answer.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Set
from typing import Any, TypeAlias

from sanic import Request
from sanic.http import Http, Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from proxy.errors import UnavailableError

# All open connections; Sanic adds and removes them.
Connections: TypeAlias = set[HttpProtocol]

_LOOK_SECONDS = 0.05


class Shutdown:
    """Knows whether the process is stopping, and which answers it still owes."""

    def __init__(self) -> None:
        self._owed: Set[Any] | None = None

    @property
    def begun(self) -> bool:
        """Whether the process is stopping."""
        return self._owed is not None

    async def drain(self, connections: Connections, seconds: float) -> float:
        """Refuse requests from now on; return when all that had come are answered, with how many seconds are left.

        Those that are not answered after `seconds` are left to Sanic, which cuts them off.
        """
        if self._owed is None:
            self._owed = {connection for connection in connections if _is_busy(connection)}
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while self._owed & connections and clock() < deadline:  # noqa: ASYNC110 (Sanic's set has no event to wait for)
            await asyncio.sleep(_LOOK_SECONDS)
        return max(0.0, deadline - clock())

    def refuse(self) -> None:
        """Keep a new request out.

        Raises:
            UnavailableError: the process is stopping.
        """
        if self.begun:
            raise UnavailableError("The server is stopping. Please try again, or ask another one.")

    def release(self, request: Request) -> None:
        """Close the connection after the current answer, if the process is stopping."""
        if self.begun and isinstance(request.stream, Http):
            request.stream.keep_alive = False


def _is_busy(connection: HttpProtocol) -> bool:
    return connection.http is not None and connection.http.stage is not Stage.IDLE


def ignore_second_sigterm() -> None:
    """Keep a repeated SIGTERM from ending the process before its answers have ended.

    Sanic restores the default action when it begins to stop. A supervisor that also gets the terminal's
    Ctrl-C sends a second signal; a second Ctrl-C still ends the process at once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
