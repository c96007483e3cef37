"""Spreads a group's requests over its replicas: a `Backend` in front of another.

A replica is a Triton model of its own; clients and routes know only the group. Whoever has the fewest of this process's
open requests gets the next one; docs/decisions/0008 says why Triton does not choose. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from zlib import crc32

import msgspec

from proxy.backend import Backend, GenerateRequest, Load, ModelDescription, ModelState, Piece, Prompt, Pulse, Tokens
from proxy.errors import OverloadedError, UnavailableError
from proxy.groups import Groups

# How much of a raw prompt must be the same for two prompts to count as beginning alike.
_BEGINNING_CHARACTERS = 256
_BEGINNING_TOKENS = 64


class Replicas:
    """Speaks to groups by name or alias; `backend` speaks to single Triton models."""

    def __init__(self, backend: Backend, groups: Groups) -> None:
        self._backend = backend
        self._groups = groups
        self._open: Counter[str] = Counter()

    async def generate(self, group: str, request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        """See `Backend.generate`. As long as nothing was said, a replica that cannot answer hands over to another."""
        tried: list[str] = []
        while True:
            replica = self._choose(group, request.prompt, tried)
            tried.append(replica)
            has_begun = False
            self._open[replica] += 1
            try:
                async with aclosing(self._backend.generate(replica, request)) as responses:
                    async for pieces in responses:
                        has_begun = True
                        yield pieces
                return
            except (UnavailableError, OverloadedError):
                if has_begun or not self._others(group, tried):
                    raise
            finally:
                self._open[replica] -= 1

    async def tokenize(self, group: str, prompt: Prompt) -> Tokens:
        """See `Backend.tokenize`."""
        return await self._backend.tokenize(self._choose(group, prompt), prompt)

    async def detokenize(self, group: str, token_ids: list[int]) -> str:
        """See `Backend.detokenize`."""
        return await self._backend.detokenize(self._choose(group, Prompt()), token_ids)

    async def describe(self, group: str) -> ModelDescription:
        """See `Backend.describe`."""
        return await self._backend.describe(self._choose(group, Prompt()))

    async def pulse(self, group: str) -> Pulse:
        """See `Backend.pulse`."""
        return await self._backend.pulse(self._choose(group, Prompt()))

    def abandon(self, group: str, message: str) -> None:
        """See `Backend.abandon`; of a group all replicas."""
        for replica in self._groups.replicas(group):
            self._backend.abandon(replica, message)

    async def load(self, group: str) -> Load:
        """See `Backend.load`: what all its replicas do together."""
        loads = await asyncio.gather(*(self._backend.load(name) for name in self._groups.replicas(group)))
        return Load(*(sum(getattr(load, name) for load in loads) for name in Load.__struct_fields__))

    async def index(self) -> list[ModelState]:
        """See `Backend.index`."""
        return await self._backend.index()

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._backend.close()

    def _choose(self, group: str, prompt: Prompt, tried: Collection[str] = ()) -> str:
        """The ready replica with the fewest open requests; of several, prompts that begin alike get the same.

        So the turns of a conversation find their beginning in a cache, unless another replica is less busy.
        """
        candidates = self._others(group, tried)
        if not candidates:  # it went away since the request was let in: Triton's own answer tells how
            return group
        if len(candidates) == 1:
            return candidates[0]
        fewest = min(self._open[name] for name in candidates)
        idle = [name for name in candidates if self._open[name] == fewest]
        return idle[crc32(_beginning(prompt)) % len(idle)]

    def _others(self, group: str, tried: Collection[str]) -> Sequence[str]:
        ready = self._groups.replicas(group)
        return [name for name in ready if name not in tried] if tried else ready


def _beginning(prompt: Prompt) -> bytes:
    """What later turns of the same conversation have in common: everything up to the user's first words."""
    if prompt.messages is not None:
        roles = [message.get("role") for message in prompt.messages]
        first_user = roles.index("user") + 1 if "user" in roles else len(roles)
        return msgspec.json.encode(prompt.messages[:first_user])
    if prompt.text is not None:
        return prompt.text[:_BEGINNING_CHARACTERS].encode(errors="replace")
    return msgspec.json.encode((prompt.token_ids or [])[:_BEGINNING_TOKENS])
