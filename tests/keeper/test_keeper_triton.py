"""The keeper's connection to Triton, on a real port."""

import asyncio

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from keeper.triton import GrpcTriton, TritonAwayError
from tests.launch.launched import free_ports


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
