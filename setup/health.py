"""Tells whether servers can answer: what a container's health check runs.

Usage: health.py URL..., each Triton's root or a path of the proxy. Ends with one line about each that cannot.

That a port is open, and even that Triton calls a model ready, proves little: Triton goes on calling a model ready
whose process was killed. So every ready model is asked to describe itself, which costs it nothing.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5
# launch.sh has Triton want it of whoever asks for its models.
HEADERS = {"slipstream": "yes"}


class IllError(Exception):
    """A server cannot answer; the message says why."""


def main(urls: list[str]) -> None:
    """Ask every server.

    Raises:
        SystemExit: with a line for each that cannot answer.
    """
    # a proxy meant for the outside must not see requests to this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ill = []
    for url in urls:
        try:
            if urlsplit(url).path.strip("/"):
                ask(opener, url)
            else:
                check_triton(opener, url)
        except IllError as error:
            ill.append(f"{url}: {error}")
    if ill:
        sys.exit("\n".join(ill))


def check_triton(opener: urllib.request.OpenerDirector, url: str) -> None:
    """See to it that Triton has ready models, and that each of them answers."""
    models = [model["name"] for model in ask(opener, f"{url}/v2/repository/index", {}) if model.get("state") == "READY"]
    if not models:
        raise IllError("no model is ready")
    for name in models:
        try:
            ask(opener, f"{url}/v2/models/{name}/generate", {"task": "describe"})
        except IllError as error:
            raise IllError(f"model {name} does not answer: {error}") from None


def ask(opener: urllib.request.OpenerDirector, url: str, body: dict[str, Any] | None = None) -> Any:
    """The answer's JSON; with a body the request is a POST."""
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, HEADERS)
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise IllError(f"{error.code} {error.read(500).decode(errors='replace').strip()}") from None
    except (OSError, ValueError) as error:
        raise IllError(str(error)) from None


if __name__ == "__main__":
    main(sys.argv[1:])
