"""The proxy on the fake backend as a process of its own: `python -m tests.proxy.served PORT`.

For clients that run outside of our event loop, such as fuzzers.
"""

from __future__ import annotations

import socket
import sys

from proxy.config import ProxyConfig
from proxy.server import create_app
from tests.proxy.fakes import FakeBackend


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    create_app(ProxyConfig(), FakeBackend()).run(sock=listener, single_process=True, motd=False)


if __name__ == "__main__":
    main()
