"""The proxy on a backend that answers at once, a response for each of 64 words: `instant_proxy.py PORT`."""

import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sanic import Sanic

from proxy.backend import GenerateRequest, ModelDescription, ModelState, Piece, Prompt, Tokens, Usage
from proxy.config import ProxyConfig
from proxy.server import create_app

NUM_CHUNKS = 64
WORD = "one two "

_DESCRIPTION = ModelDescription("instant", 2048, "cpu", "float32", "0", "fp_instant", 64)
_LAST = Piece(0, WORD, 1, "stop", Usage(7, NUM_CHUNKS))
_PIECE = Piece(0, WORD, 1)


class InstantBackend:
    """A `Backend` that has everything ready."""

    async def generate(self, group: str, request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        """See `Backend.generate`."""
        if not request.stream:
            yield [Piece(0, NUM_CHUNKS * WORD, NUM_CHUNKS, "stop", _LAST.usage)]
            return
        for number in range(NUM_CHUNKS):
            yield [_LAST if number == NUM_CHUNKS - 1 else _PIECE]

    async def tokenize(self, group: str, prompt: Prompt) -> Tokens:
        """See `Backend.tokenize`."""
        return Tokens([])

    async def detokenize(self, group: str, token_ids: list[int]) -> str:
        """See `Backend.detokenize`."""
        return ""

    async def describe(self, group: str) -> ModelDescription:
        """See `Backend.describe`."""
        return _DESCRIPTION

    async def index(self) -> list[ModelState]:
        """See `Backend.index`."""
        return [ModelState("primary", "READY")]

    async def close(self) -> None:
        """See `Backend.close`."""


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    app = create_app(replace(ProxyConfig(), host="127.0.0.1"), InstantBackend())
    app.prepare(sock=listener, single_process=True, motd=False, access_log=False)
    Sanic.serve_single(app)


if __name__ == "__main__":
    main()
