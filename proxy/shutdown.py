"""Letting go of clients when the process has been told to stop.

Sanic stops listening, closes idle connections and waits for busy ones, but a busy one goes back to waiting
for its next request. Here it is closed after its answer, so that the process ends as soon as the last answer
has.
"""

from __future__ import annotations

import signal

from sanic import Request
from sanic.http import Http


class Shutdown:
    """Knows whether the process is stopping."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """Answer what is running, then stop."""
        self.begun = True

    def release(self, request: Request) -> None:
        """Close the connection after the current answer, if the process is stopping."""
        if self.begun and isinstance(request.stream, Http):
            request.stream.keep_alive = False


def ignore_second_sigterm() -> None:
    """Keep a repeated SIGTERM from ending the process before its answers have ended.

    Sanic restores the default action when it begins to stop. A supervisor that also gets the terminal's
    Ctrl-C sends a second signal; a second Ctrl-C still ends the process at once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
