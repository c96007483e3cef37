"""Both ports on a fake backend as a process: `python -m tests.page.served OPENAI_PORT NATIVE_PORT [KEY]`.

The last question decides how the backend answers; see `_SCRIPTS`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from proxy.backend import GenerateRequest, ModelState, Piece, Usage
from proxy.config import ProxyConfig
from proxy.errors import InvalidRequestError, UnavailableError
from proxy.process import listen, serve
from tests.proxy.fakes import FakeBackend, Script, respond, say

HOSTILE = (Path(__file__).parent / "hostile.md").read_text()
MARKDOWN = (Path(__file__).parent / "pleasant.md").read_text()


def pieces(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


async def echo(request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
    """Everything that reached the backend, as JSON in a block of code."""
    asked = {"messages": request.prompt.messages, "sampling_parameters": request.sampling_parameters}
    async for some in say("```json\n", json.dumps(asked), "\n```")(request):
        yield some


async def endless(request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
    for number in range(100_000):
        yield [Piece(0, f"word{number} ", 1)]
        await asyncio.sleep(0.03)


async def think(request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
    yield [Piece(0, "", 1, reasoning="Let me see. ")]
    yield [Piece(0, "It is 4.", 1, "stop", Usage(5, 9))]


_SCRIPTS: dict[str, Script] = {
    "hostile": say(*pieces(HOSTILE, 50)),
    "markdown": say(*pieces(MARKDOWN), pause=0.001),
    "slow": say("One ", "two ", "three.", pause=0.1),
    "endless": endless,
    "think": think,
    "cut off": say("As long as the limit", finish_reason="length"),
    "refuse": respond(InvalidRequestError("'temperature' is not to my liking.", param="temperature")),
    "break": respond([Piece(0, "So far and ", 1)], UnavailableError("The group 'primary' ended its answer early.")),
    "silence": respond([Piece(0, "", 0, "stop", Usage(3, 1))]),
}


async def by_question(request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
    question = (request.prompt.messages or [{"content": ""}])[-1]["content"]
    script = next((script for word, script in _SCRIPTS.items() if word in question), echo)
    async for some in script(request):
        yield some


def main() -> None:
    """Serve until SIGTERM."""
    openai, native, *keys = sys.argv[1:]
    backend = FakeBackend(by_question)
    backend.states = [*backend.states, ModelState("third", "LOADING")]
    config = ProxyConfig(port=int(openai), native_port=int(native), api_keys=tuple(keys), shutdown_timeout=0.2)
    serve(config, listen(config), backend)


if __name__ == "__main__":
    main()
