"""Triton as the keeper needs it: its control API, and the pulse of a model. Belongs to one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc  # type: ignore[import-untyped]
import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

_INDEX_SECONDS = 5.0
# Longer than a channel waits between two attempts to connect.
_CONNECT_SECONDS = 2.0
# Triton takes a second to find that a model's process gives no heartbeat.
PULSE_SECONDS = 5.0

_CHANNEL_ARGUMENTS = [
    # The default backoff grows to two minutes, during which a restarted Triton would look dead.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name, how long an attempt to connect may take: on a busy machine 100 ms were not enough.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


class TritonError(Exception):
    """Triton could not do what it was asked for, and says why."""


class TritonAwayError(TritonError):
    """Nothing answers at Triton's address."""


class SilenceError(TritonError):
    """No answer came in time."""


class UnhealthyError(TritonError):
    """The model's process gave Triton no heartbeat for a second: it has died, or it is stopped or starved."""


@dataclass(frozen=True)
class ModelState:
    """A model of the repository. `state` is Triton's own word; `""` is never loaded."""

    name: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Pulse:
    """A model's sign of life, see docs/tensor-contract.md."""

    is_serving: bool
    pass_seconds: float


class Triton(Protocol):
    """What the keeper asks of Triton; every method raises `TritonError` and nothing else."""

    async def index(self) -> list[ModelState]:
        """List every model of the repository."""
        ...

    async def pulse(self, model: str) -> Pulse:
        """Ask a model how it is, for at most `PULSE_SECONDS`."""
        ...

    async def load(self, model: str) -> None:
        """Load a model from its folder, or replace it by what is in its folder; returns when it serves."""
        ...

    async def unload(self, model: str) -> None:
        """Take a model away. Returns at once, while requests that it works on may go on."""
        ...


class GrpcTriton:
    """The Triton at `url` (host:port)."""

    def __init__(self, url: str) -> None:
        self._client = InferenceServerClient(url, channel_args=_CHANNEL_ARGUMENTS)

    async def index(self) -> list[ModelState]:
        """See `Triton.index`."""
        index = await _connected(lambda: self._client.get_model_repository_index(client_timeout=_INDEX_SECONDS))
        return [ModelState(model.name, model.state, model.reason) for model in index.models]

    async def pulse(self, model: str) -> Pulse:
        """See `Triton.pulse`."""
        pulse = None
        with _translated():
            # To the end: where a call is cancelled between its answer and its end, Triton may hold the model for ever,
            # and its process outlives every unloading.
            async for event in self._events(model):
                pulse = Pulse(event["pulse"]["is_serving"], event["pulse"]["pass_seconds"])
        if pulse is None:
            raise TritonError(f"{model} answered nothing")
        return pulse

    async def load(self, model: str) -> None:
        """See `Triton.load`."""
        await _connected(lambda: self._client.load_model(model))

    async def unload(self, model: str) -> None:
        """See `Triton.unload`."""
        await _connected(lambda: self._client.unload_model(model))

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.close()

    async def _events(self, model: str) -> AsyncIterator[dict[str, Any]]:
        """The events of the answer to `pulse`."""
        task = InferInput("task", [1], "BYTES")
        task.set_data_from_numpy(np.array([b"pulse"], dtype=np.object_))

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": model, "inputs": [task]}

        call = self._client.stream_infer(requests(), stream_timeout=PULSE_SECONDS)
        try:
            async for result, error in call:
                if error is not None:
                    raise error
                for event in result.as_numpy("event"):
                    yield json.loads(event)
        finally:
            call.cancel()  # does nothing to a call that has ended


async def _connected(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What Triton answers. While a connection is refused, it is tried for a little longer.

    Between two attempts to connect a channel refuses every call, also when Triton has begun to listen meanwhile.
    """
    deadline = asyncio.get_running_loop().time() + _CONNECT_SECONDS
    while True:
        try:
            with _translated():
                return await ask()
        except TritonAwayError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)


@contextmanager
def _translated() -> Iterator[None]:
    """Within the block, failures of gRPC and Triton become ours."""
    try:
        yield
    except InferenceServerException as error:
        raise _our(str(error.status() or ""), str(error.message())) from error
    except grpc.RpcError as error:
        raise _our(str(error.code()), str(error.details())) from error
    except (KeyError, TypeError, ValueError) as error:
        raise TritonError(f"its answer could not be read: {error!r}") from error


def _our(status: str, message: str) -> TritonError:
    if "is not healthy" in message:
        return UnhealthyError(message)
    match status.removeprefix("StatusCode."):
        case "UNAVAILABLE":
            return TritonAwayError(message)
        case "DEADLINE_EXCEEDED":
            return SilenceError(message)
    return TritonError(message)
