"""`Backend` over Triton's gRPC: tensors and status codes stop here.

Written against docs/tensor-contract.md. One client for the life of the process, because clients made per
request leak in tritonclient; it belongs to the event loop it was made on.
"""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped]
import msgspec
import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from proxy.backend import GenerateRequest, Load, ModelDescription, ModelState, Piece, Prompt, Pulse, Tokens
from proxy.bundles import Bundles
from proxy.endings import Endings
from proxy.errors import InternalError, NeverSeenError, ProcessDeadError, UnavailableError, from_kind
from proxy.triton_errors import translate
from proxy.wire_event import Responses, WireError, WireEvent, is_final, read_events

# The contract's tensors: inputs with their datatype, of shape [1] but for the ids.
INPUTS = {
    "task": "BYTES",
    "text_input": "BYTES",
    "messages": "BYTES",
    "input_ids": "INT64",
    "prompt_options": "BYTES",
    "stream": "BOOL",
    "sampling_parameters": "BYTES",
}

_INDEX_SECONDS = 5.0
_ASK_SECONDS = 10.0
# Triton takes a second to find that a model's process is dead.
_PULSE_SECONDS = 5.0
# Before a request that no model has seen is sent once more.
_RETRY_SECONDS = 0.3

_CHANNEL_ARGUMENTS = [
    # gRPC's default of 4 MB refuses long conversations; Triton's own limit is this one.
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # The default backoff grows to two minutes, during which a restarted Triton would look dead.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name, how long an attempt to connect may take: on a busy machine 100 ms were not enough.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # And a name is looked up no oftener than this, by default 30 s: a container comes back at another address.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # Triton is a neighbour: an http_proxy in the environment is not meant for it.
    ("grpc.enable_http_proxy", 0),
]


# Triton's request parameters.
Parameters = Mapping[str, str | int]

# grpcio loses 100 bytes for ever with every read that is cancelled, and with every call that is cancelled before its
# first response (grpc issue 43360, in 1.85 still). So the calls that may be left ask for an empty response at once,
# and only the call is cancelled, never its reading.
_ACKNOWLEDGE: Parameters = {"acknowledge": True}


@dataclass(eq=False)
class _Call:
    """A call that has not ended, and what it is to fail with when it is cancelled by us."""

    call: Any
    failure: UnavailableError | None = None


class TritonBackend:
    """Speaks to the Triton at `url` (host:port). Make it inside the running event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = InferenceServerClient(url, channel_args=_CHANNEL_ARGUMENTS)
        self._calls: defaultdict[str, set[_Call]] = defaultdict(set)
        self._endings = Endings()
        self._bundles = Bundles(self._open_bundle)

    async def generate(self, group: str, request: GenerateRequest) -> AsyncGenerator[Sequence[Piece], None]:
        """See `Backend.generate`."""
        inputs = [
            *_prompt(request.prompt),
            _tensor("stream", request.stream),
            _tensor("sampling_parameters", msgspec.json.encode(request.sampling_parameters)),
        ]
        with self._bundles.stream(group) if request.stream else nullcontext() as recipient:
            if recipient is None:
                responses = self._infer_again(group, inputs, request.request_id, request.trace)
            else:
                parameters = request.trace | recipient.parameters
                responses = recipient.responses(self._infer_again(group, inputs, request.request_id, parameters))
            async with aclosing(self._pieces(group, responses)) as pieces:
                async for some in pieces:
                    yield some

    async def _pieces(self, group: str, responses: Responses) -> AsyncGenerator[Sequence[Piece], None]:
        finished = False
        try:
            async for events in responses:
                pieces: list[Piece] = []
                failure: WireError | None = None
                for event in events:
                    if event.error is not None:
                        failure = event.error
                        break
                    pieces.append(_piece(event))
                finished = bool(pieces) and pieces[-1].usage is not None
                if pieces:
                    yield pieces
                if failure is not None:
                    raise from_kind(failure.kind, failure.message, code=failure.code, param=failure.param)
                if finished:
                    return
        finally:
            await responses.aclose()
        raise UnavailableError(f"The group {group!r} ended its answer early. Please try again.")

    async def tokenize(self, group: str, prompt: Prompt) -> Tokens:
        """See `Backend.tokenize`."""
        event = await self._ask(group, [_tensor("task", b"tokenize"), *_prompt(prompt)])
        if event.tokens is None:
            raise InternalError("The model's answer could not be read.")
        return event.tokens

    async def detokenize(self, group: str, token_ids: list[int]) -> str:
        """See `Backend.detokenize`."""
        event = await self._ask(group, [_tensor("task", b"detokenize"), _ids(token_ids)])
        return event.text

    async def describe(self, group: str) -> ModelDescription:
        """See `Backend.describe`."""
        event = await self._ask(group, [_tensor("task", b"describe")])
        if event.model is None:
            raise UnavailableError(f"The group {group!r} did not describe itself.")
        return event.model

    async def pulse(self, group: str) -> Pulse:
        """See `Backend.pulse`."""
        event = await self._ask(group, [_tensor("task", b"pulse")], _PULSE_SECONDS)
        if event.pulse is None:
            raise InternalError("The model's answer could not be read.")
        return event.pulse

    def abandon(self, group: str, message: str) -> None:
        """See `Backend.abandon`."""
        self._abandon(group, UnavailableError, message)

    def _abandon(self, group: str, failure: type[UnavailableError], message: str) -> None:
        for call in list(self._calls[group]):
            call.failure = failure(message)
            call.call.cancel()

    async def load(self, group: str) -> Load:
        """See `Backend.load`."""
        event = await self._ask(group, [_tensor("task", b"load")])
        if event.load is None:
            raise UnavailableError(f"The group {group!r} did not say how busy it is.")
        return event.load

    async def index(self) -> list[ModelState]:
        """See `Backend.index`."""
        try:
            index = await self._client.get_model_repository_index(client_timeout=_INDEX_SECONDS)
        except (InferenceServerException, grpc.RpcError) as error:
            self._fail(error)
        return [ModelState(model.name, model.state, model.reason) for model in index.models]

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._bundles.close()
        await self._endings.close()
        await self._client.close()

    async def _ask(self, group: str, inputs: list[InferInput], deadline: float = _ASK_SECONDS) -> WireEvent:
        """Run a request whose answer is one event."""
        responses = self._infer(group, inputs, deadline=deadline)
        try:
            async for event, *_ in responses:
                if (error := event.error) is not None:
                    raise from_kind(error.kind, error.message, code=error.code, param=error.param)
                return event
        finally:
            await responses.aclose()
        raise UnavailableError(f"The group {group!r} did not answer.")

    def _open_bundle(self, group: str, name: str) -> Responses:
        return self._infer(group, [_tensor("task", b"bundle")], parameters={"bundle": name, **_ACKNOWLEDGE})

    async def _infer_again(
        self, group: str, inputs: list[InferInput], request_id: str, parameters: Parameters
    ) -> Responses:
        """Run a request; once more if no model has seen it, as while Triton starts or a model is swapped."""
        for is_last_attempt in (False, True):
            is_seen = False
            try:
                responses = self._infer(group, inputs, request_id, parameters={**parameters, **_ACKNOWLEDGE})
                async with aclosing(responses):
                    async for response in responses:
                        is_seen = True
                        yield response
                return
            except NeverSeenError:
                if is_seen or is_last_attempt:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def _infer(
        self,
        group: str,
        inputs: list[InferInput],
        request_id: str = "",
        deadline: float | None = None,
        parameters: Parameters | None = None,
    ) -> Responses:
        """Run one request; yield each response's events; cancel the call when left before the last response."""

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": group, "inputs": inputs, "request_id": request_id, "parameters": parameters or None}

        call = self._client.stream_infer(requests(), stream_timeout=deadline)
        record = _Call(call)
        self._calls[group].add(record)
        is_answered = False
        try:
            while not is_answered:  # who waited for the call's end here could be cancelled, and the call with it
                result, error = await asyncio.shield(anext(call))  # see _ACKNOWLEDGE
                is_answered = error is not None or is_final(result.get_response())
                if error is not None:
                    self._fail_call(group, error)
                # A cancelled request ends with an empty response that only carries Triton's FINAL flag.
                if events := read_events(result.get_response()):
                    yield events
        except StopAsyncIteration:
            return
        except (InferenceServerException, grpc.RpcError) as error:
            self._fail_call(group, error)
        except asyncio.CancelledError:
            # grpc.aio raises this for a CANCELLED status from the server too; only a cancel of our own task
            # may look like a client that left.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            dropped = UnavailableError("The inference server dropped the request. Please try again.")
            raise record.failure or dropped from None
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, struct.error) as error:
            raise InternalError("The model's answer could not be read.") from error
        finally:
            self._calls[group].discard(record)
            if is_answered:
                self._endings.hear(call)
            else:
                call.cancel()  # does nothing to a call that has ended

    def _fail_call(self, group: str, error: Exception) -> NoReturn:
        """Fail a call with Triton's error. One that found the group's process dead fails all others with it.

        Triton finds it out for each call anew, one after the other, a second each.
        """
        failure = translate(error, self._url)
        if isinstance(failure, ProcessDeadError):
            dead = f"The model {group!r} is not available: its process has died and is replaced. Please try again."
            self._abandon(group, ProcessDeadError, dead)
        raise failure from error

    def _fail(self, error: Exception) -> NoReturn:
        raise translate(error, self._url) from error


def _piece(event: WireEvent) -> Piece:
    return Piece(
        event.index,
        event.text,
        event.num_tokens,
        event.finish_reason,
        event.usage,
        event.logprobs,
        event.reasoning,
        event.tool_calls,
    )


def _prompt(prompt: Prompt) -> list[InferInput]:
    inputs = []
    if prompt.messages is not None:
        inputs.append(_tensor("messages", msgspec.json.encode(prompt.messages)))
    if prompt.text is not None:
        inputs.append(_tensor("text_input", prompt.text.encode()))
    if prompt.token_ids is not None:
        inputs.append(_ids(prompt.token_ids))
    if prompt.options:
        inputs.append(_tensor("prompt_options", msgspec.json.encode(prompt.options)))
    return inputs


def _ids(token_ids: list[int]) -> InferInput:
    tensor = InferInput("input_ids", [len(token_ids)], INPUTS["input_ids"])
    tensor.set_data_from_numpy(np.array(token_ids, dtype=np.int64))
    return tensor


def _tensor(name: str, value: bytes | bool) -> InferInput:
    tensor = InferInput(name, [1], INPUTS[name])
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_ if isinstance(value, bytes) else np.bool_))
    return tensor
