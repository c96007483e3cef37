"""Several prompts as one answer: asked at the same time, their choices numbered on, their tokens added up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec.structs import replace

from proxy.backend import Backend, GenerateRequest, Piece, Usage

# Responses that may wait for a reader that is behind; Triton holds what comes after them.
_MAX_WAITING = 64


async def generate_all(
    backend: Backend, group: str, requests: Sequence[GenerateRequest], num_choices: int
) -> AsyncGenerator[Sequence[Piece], None]:
    """Yield the pieces of all requests as they come; only the very last one has a usage, the sum of all.

    Choice c of request r gets the index `r * num_choices + c`. When a request fails, the others are given up
    and its error is raised.
    """
    arrived: asyncio.Queue[Sequence[Piece] | Exception] = asyncio.Queue(_MAX_WAITING)
    readers = [
        asyncio.create_task(_read(backend, group, request, number * num_choices, arrived))
        for number, request in enumerate(requests)
    ]
    usages: list[Usage] = []
    try:
        while len(usages) < len(requests):
            pieces = await arrived.get()
            if isinstance(pieces, Exception):
                raise pieces
            if (usage := pieces[-1].usage) is not None:
                usages.append(usage)
                total = _sum(usages) if len(usages) == len(requests) else None
                pieces = [*pieces[:-1], replace(pieces[-1], usage=total)]
            yield pieces
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


async def _read(
    backend: Backend,
    group: str,
    request: GenerateRequest,
    first_index: int,
    arrived: asyncio.Queue[Sequence[Piece] | Exception],
) -> None:
    try:
        async with aclosing(backend.generate(group, request)) as responses:
            async for pieces in responses:
                await arrived.put([replace(piece, index=first_index + piece.index) for piece in pieces])
    except Exception as error:
        await arrived.put(error)


def _sum(usages: list[Usage]) -> Usage:
    return Usage(
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
        sum(usage.cached_tokens for usage in usages),
    )
