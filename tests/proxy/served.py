"""The proxy on the fake backend as a process of its own: `python -m tests.proxy.served OPENAI_PORT NATIVE_PORT`.

For clients that run outside of our event loop, such as fuzzers.
"""

from __future__ import annotations

import sys

from proxy.config import ProxyConfig
from proxy.process import listen, serve
from tests.proxy.fakes import FakeBackend

if __name__ == "__main__":
    openai, native = map(int, sys.argv[1:])
    config = ProxyConfig(port=openai, native_port=native)
    serve(config, listen(config), FakeBackend())
