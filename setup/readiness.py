"""Waits until every named URL answers 200 with all of its groups ready, and shows what it waits for.

Usage: readiness.py NAME=URL... It never gives up: the launcher ends it when what it waits for has died.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

POLL_SECONDS = 0.3
QUIET_SECONDS = 15  # between two lines of progress where there is no terminal


def main(arguments: list[str]) -> None:
    """Wait for one after the other."""
    # a proxy meant for the outside must not see requests to this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for argument in arguments:
        name, _, url = argument.partition("=")
        progress = Progress(name)
        while not answers(opener, url):
            progress.show()
            time.sleep(POLL_SECONDS)
        progress.finish()


def answers(opener: urllib.request.OpenerDirector, url: str) -> bool:
    """Whether the URL answers 200 right now, and every group that the answer lists is ready."""
    try:
        with opener.open(url, timeout=5) as response:
            return response.status == 200 and all_groups_ready(response.read())
    except (urllib.error.URLError, OSError):
        return False


def all_groups_ready(body: bytes) -> bool:
    """The proxy calls itself ready at its first group; a launch waits for them all."""
    groups = json.loads(body).get("groups", []) if body else []
    return all(group["state"] == "ready" for group in groups)


def phase_of(name: str) -> str:
    """What `model NAME` is doing, as load_note.py has it; nothing where there is no note."""
    path = Path(os.environ.get("TAKEOFF_RUN_DIR", ""), "loading", f"{name.removeprefix('model ')}.json")
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        return ""
    return f", {note['phase']}" + ("" if note["share"] is None else f" {note['share']:.0%}")


class Progress:
    """How long something has been waited for: a line rewritten on a terminal, repeated elsewhere."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self.shown_at: float | None = None

    def show(self) -> None:
        """Show the seconds so far, if it is time to."""
        now = time.monotonic()
        line = f"Waiting for {self.name}: {now - self.started:.0f} s{phase_of(self.name)}"
        if sys.stdout.isatty():
            print(f"\r{line}\033[K", end="", flush=True)
        elif self.shown_at is None or now - self.shown_at >= QUIET_SECONDS:
            print(line, flush=True)
            self.shown_at = now

    def finish(self) -> None:
        """Say that the waiting is over."""
        start = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{start}{self.name} is ready after {time.monotonic() - self.started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
