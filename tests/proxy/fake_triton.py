"""A gRPC server that speaks as much of Triton's protocol as the proxy uses, on a loopback port."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc

DESCRIPTION: dict[str, Any] = {
    "name": "org/model",
    "max_model_len": 100,
    "device": "cpu",
    "dtype": "float32",
    "engine_version": "1",
    "fingerprint": "fp_1",
    "max_num_sequences": 4,
}

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}


def piece(index: int, num_tokens: int = 1, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"index": index, "num_tokens": num_tokens, "finish_reason": finish_reason, **more}


def response(*events: tuple[str, dict[str, Any]], final: bool = False) -> Any:
    """Build a response with one text and one event per pair, laid out as Triton does."""
    infer = service_pb2.ModelInferResponse(model_name="primary", model_version="1")
    if events:
        columns = ([text for text, _ in events], [json.dumps(event) for _, event in events])
        # The order of outputs is Triton's to choose.
        for name, values in (("event", columns[1]), ("text_output", columns[0])):
            infer.outputs.add(name=name, datatype="BYTES", shape=[len(values)])
            encoded = [value.encode() for value in values]
            infer.raw_output_contents.append(b"".join(struct.pack("<I", len(v)) + v for v in encoded))
    infer.parameters["triton_final_response"].bool_param = final
    return service_pb2.ModelStreamInferResponse(infer_response=infer)


def failure(message: str) -> Any:
    return service_pb2.ModelStreamInferResponse(error_message=message)


Inputs = dict[str, Any]
Script = Callable[[Inputs, Any], AsyncIterator[Any]]


async def hello(inputs: Inputs, context: Any) -> AsyncIterator[Any]:
    if not inputs["stream"]:
        yield response(("Hello world", piece(0, 2, "stop", usage=USAGE)), final=True)
        return
    yield response(("Hello", piece(0)))
    yield response((" world", piece(0)), ("", piece(0, 0, "stop", usage=USAGE)), final=True)


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers `describe` by itself and everything else with `script`."""

    script: Script = hello
    index: Sequence[tuple[str, str, str]] = (("primary", "READY", ""),)
    index_failure: grpc.StatusCode | None = None
    description: dict[str, Any] = field(default_factory=lambda: dict(DESCRIPTION))
    port: int = 0
    requests: list[Inputs] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.index_failure is not None:
            await context.abort(self.index_failure, "as the test wants it")
        answer = service_pb2.RepositoryIndexResponse()
        for name, state, reason in self.index:
            answer.models.add(name=name, version="1", state=state, reason=reason)
        return answer

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            async for request in requests:
                inputs = _inputs(request)
                if inputs.get("task") == "describe":
                    yield response(("", {"model": self.description}), final=True)
                    continue
                if inputs.get("task") == "pulse":
                    yield response(("", {"pulse": {"is_serving": True, "pass_seconds": 0.0}}), final=True)
                    continue
                self.requests.append(inputs)
                async for message in self.script(inputs, context):
                    yield message
            self.finished.set()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def _inputs(request: Any) -> Inputs:
    inputs: Inputs = {"model": request.model_name, "id": request.id}
    for name, value in request.parameters.items():
        inputs[name] = getattr(value, value.WhichOneof("parameter_choice"))
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "INT64":
            inputs[tensor.name] = list(struct.unpack(f"<{tensor.shape[0]}q", raw))
            continue
        assert list(tensor.shape) == [1]
        if tensor.datatype == "BOOL":
            inputs[tensor.name] = raw == b"\x01"
        else:
            (length,) = struct.unpack_from("<I", raw)
            assert len(raw) == 4 + length
            inputs[tensor.name] = raw[4:].decode()
    return inputs


@asynccontextmanager
async def running(triton: FakeTriton) -> AsyncIterator[FakeTriton]:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    triton.port = server.add_insecure_port(f"127.0.0.1:{triton.port}")
    await server.start()
    try:
        yield triton
    finally:
        await server.stop(None)
