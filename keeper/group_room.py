"""Consumer groups at run time: adds, replaces and removes them while others serve. Runs on the event loop.

Triton swaps a model whose folder has changed without losing a request: the old one serves until the new one is ready,
and lives until its running answers have ended.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from llm.errors import ConfigError
from manifest import Reader, readers_of_group
from render import read_back, render

from keeper.group_locks import GroupLocks
from keeper.load_error import LoadError
from keeper.triton import ModelState, Triton, TritonError

_log = logging.getLogger(__name__)


class GroupNotFoundError(Exception):
    """There is no group of this name."""


class Patient(Protocol):
    """What is told of models that are taken away on purpose."""

    def forget(self, group: str) -> None:
        """Call it with the model's lock held."""
        ...


class GroupRoom:
    """The groups in `repository`. One change at a time; requests for answers do not notice.

    Args:
        environ: TAKEOFF_* variables, which stand in for what a reader leaves out.
    """

    def __init__(
        self, triton: Triton, repository: Path, locks: GroupLocks, healing: Patient, environ: Mapping[str, str]
    ) -> None:
        self._triton = triton
        self._repository = repository
        self._locks = locks
        self._healing = healing
        self._environ = environ
        self._changing = asyncio.Lock()

    async def groups(self) -> dict[str, list[tuple[Reader, ModelState]]]:
        """Every group's readers, each with what Triton says of its model.

        Raises:
            TritonError: it cannot be asked.
        """
        states = {model.name: model for model in await self._triton.index()}
        found: dict[str, list[tuple[Reader, ModelState]]] = {}
        for reader in read_back(self._repository):
            state = states.get(reader.model, ModelState(reader.model, ""))
            found.setdefault(reader.group, []).append((reader, state))
        return found

    async def put(self, group: str, entries: Sequence[Mapping[str, Any]]) -> bool:
        """Serve these readers as `group`, instead of whatever it had; return whether it is new.

        Its replicas are loaded one after the other, so that one model's memory at most is needed beside.

        Raises:
            ConfigError: a setting cannot be used; nothing has changed.
            LoadError: a replica did not load. Whatever was there before is there again.
        """
        async with self._changing:
            present = read_back(self._repository)
            others = [reader for reader in present if reader.group != group]
            before = [reader for reader in present if reader.group == group]
            wanted = readers_of_group(group, entries, others, self._environ)
            loaded: dict[str, str | None] = {}
            try:
                for reader in wanted:
                    loaded[reader.model] = await self._load(reader)
            except (ConfigError, LoadError):
                await self._restore(loaded)
                raise
            names = {reader.model for reader in wanted}
            await self._take_away(reader.model for reader in before if reader.model not in names)
            _log.info("group %s is served by %d reader(s)", group, len(wanted))
            return not before

    async def remove(self, group: str) -> None:
        """Serve it no longer; its running answers go on to their end.

        Raises:
            GroupNotFoundError: there is none.
            TritonError: it could not be unloaded.
        """
        async with self._changing:
            models = [reader.model for reader in read_back(self._repository) if reader.group == group]
            if not models:
                raise GroupNotFoundError(group)
            await self._take_away(models)
            _log.info("group %s is removed", group)

    async def _load(self, reader: Reader) -> str | None:
        """Serve the reader; return the configuration that its model had before, None where there was none."""
        config = self._repository / reader.model / "config.pbtxt"
        before = config.read_text() if config.exists() else None
        async with self._locks.of(reader.model):
            # To a thread: to count the GPUs takes seconds the first time.
            await asyncio.to_thread(render, [reader], self._repository, count_gpus)
            try:
                await self._triton.load(reader.model)
            except TritonError as error:
                if before is None:
                    await self._drop(reader.model)
                else:
                    config.write_text(before)
                raise LoadError.of(reader.model, error) from error
        return before

    async def _restore(self, loaded: Mapping[str, str | None]) -> None:
        """Undo what `_load` did to these models."""
        for model, before in loaded.items():
            try:
                if before is None:
                    await self._take_away([model])
                    continue
                async with self._locks.of(model):
                    (self._repository / model / "config.pbtxt").write_text(before)
                    await self._triton.load(model)
            except TritonError:
                _log.exception("%s could not be brought back", model)

    async def _take_away(self, models: Iterable[str]) -> None:
        async with AsyncExitStack() as stack:
            for model in models:
                await stack.enter_async_context(self._locks.of(model))
                await self._drop(model)

    async def _drop(self, model: str) -> None:
        self._healing.forget(model)
        await self._triton.unload(model)
        shutil.rmtree(self._repository / model, ignore_errors=True)


@cache
def count_gpus() -> int:
    """How many GPUs torch can use: asked in a process of its own, because the keeper has no torch."""
    import subprocess

    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ConfigError("device cannot be chosen: torch does not say how many GPUs there are; give device: cpu")
    return int(result.stdout)
