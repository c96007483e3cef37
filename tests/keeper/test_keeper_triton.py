"""The keeper's connection to Triton, on a real port."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from keeper.triton import GrpcTriton, TritonAwayError
from tests.launch.launched import free_ports
from tests.proxy.fake_triton import FakeTriton, running


class Repository(service_pb2_grpc.GRPCInferenceServiceServicer):
    async def RepositoryIndex(self, request: object, context: object) -> object:  # noqa: N802
        return service_pb2.RepositoryIndexResponse()


async def test_a_triton_that_begins_to_listen_is_found_at_once() -> None:
    """A channel waits between two attempts to connect; a group could not be added in the launch's first second."""
    (port,) = free_ports(1)
    triton = GrpcTriton(f"127.0.0.1:{port}")
    asked = asyncio.create_task(triton.index())
    await asyncio.sleep(0.5)
    assert not asked.done()
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Repository(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    assert await asked == []
    await server.stop(0)
    await triton.close()


async def test_a_triton_that_stays_away_is_told_of() -> None:
    (port,) = free_ports(1)
    triton = GrpcTriton(f"127.0.0.1:{port}")
    with pytest.raises(TritonAwayError):
        await triton.index()
    await triton.close()


async def test_a_pulse_is_heard_to_its_end() -> None:
    """The call was cancelled at its answer. Beside a failing load Triton then kept models that had been unloaded."""

    class Slow(FakeTriton):
        async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
            async for message in super().ModelStreamInfer(requests, context):
                yield message
                await asyncio.sleep(0.1)

    async with running(Slow()) as server:
        triton = GrpcTriton(f"127.0.0.1:{server.port}")
        assert (await triton.pulse("primary")).is_serving
        await triton.close()
        await asyncio.wait_for(server.finished.wait(), 5)
    assert not server.cancelled.is_set()
