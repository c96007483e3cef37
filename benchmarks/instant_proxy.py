"""The proxy on a backend that answers at once, a response for each of 64 words: `instant_proxy.py PORT`."""

import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sanic import Sanic

from proxy.backend import GenerateRequest, Piece, Usage
from proxy.config import ProxyConfig
from proxy.server import create_app
from tests.proxy.fakes import FakeBackend

NUM_CHUNKS = 64
WORD = "one two "

_LAST = Piece(0, WORD, 1, "stop", Usage(7, NUM_CHUNKS))
_PIECE = Piece(0, WORD, 1)


class InstantBackend(FakeBackend):
    """The tests' backend, with everything ready and nothing kept."""

    async def generate(self, group: str, request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        """See `Backend.generate`."""
        if not request.stream:
            yield [Piece(0, NUM_CHUNKS * WORD, NUM_CHUNKS, "stop", _LAST.usage)]
            return
        for number in range(NUM_CHUNKS):
            yield [_LAST if number == NUM_CHUNKS - 1 else _PIECE]


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    app = create_app(ProxyConfig(), InstantBackend())
    app.prepare(sock=listener, single_process=True, motd=False, access_log=False)
    Sanic.serve_single(app)


if __name__ == "__main__":
    main()
