"""Tensors to requests and events to tensors: the only file that names a tensor. See docs/tensor-contract.md."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import triton_python_backend_utils as pb_utils
from event import Event
from llm.errors import InvalidRequestError
from llm.request import SamplingParams

Task = Literal["generate", "describe"]


@dataclass(frozen=True)
class ModelInput:
    """What one Triton request asks for."""

    task: Task
    text: str | None
    messages: list[dict[str, Any]] | None
    is_stream: bool
    sampling: SamplingParams


def read_request(request: Any) -> ModelInput:
    """Read a Triton inference request.

    Raises:
        InvalidRequestError: an input is malformed.
    """
    task = _read_string(request, "task") or "generate"
    if task == "describe":
        return ModelInput("describe", None, None, False, SamplingParams())
    if task != "generate":
        raise InvalidRequestError(f"task must be generate or describe, not {task!r:.100}.", param="task")
    text, messages = _read_string(request, "text_input"), _read_json(request, "messages")
    if text is None and messages is None:
        raise InvalidRequestError("One of text_input and messages is needed.", param="messages")
    parameters = _read_json(request, "sampling_parameters")
    if parameters is None:
        parameters = _read_own_parameters(request)
    return ModelInput(
        "generate",
        text,
        None if messages is None else _check_messages(messages),
        bool(_read(request, "stream")),
        read_sampling(parameters),
    )


def read_sampling(parameters: Any) -> SamplingParams:
    """Check the types of `sampling_parameters`; null counts as absent, unknown names are disregarded.

    Raises:
        InvalidRequestError: a value has the wrong type or is out of range.
    """
    if not isinstance(parameters, Mapping):
        raise InvalidRequestError("sampling_parameters must be a JSON object.", param="sampling_parameters")
    given: dict[str, Any] = {}
    for name, kinds in _SAMPLING_TYPES.items():
        value = parameters.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise InvalidRequestError(f"{name} has the wrong type: {type(value).__name__}.", param=name)
        given[name] = value
    if (stop := given.pop("stop", None)) is not None:
        strings = [stop] if isinstance(stop, str) else stop
        if not all(isinstance(string, str) for string in strings):
            raise InvalidRequestError("stop must be a string or a list of strings.", param="stop")
        given["stop"] = tuple(strings)
    if given.get("top_k") == -1:  # vLLM's way to say "all"
        given["top_k"] = 0
    return SamplingParams(**given)


_SAMPLING_TYPES: dict[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int,),
    "max_tokens": (int,),
    "stop": (str, list),
    "seed": (int,),
    "n": (int,),
}


class ResponseWriter:
    """A `channel.Writer` on the response sender of a decoupled Triton request."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()

    def send(self, events: list[Event], *, is_final: bool) -> None:
        """See `channel.Writer`."""
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_final else 0
        if not events:
            self._sender.send(flags=flags)
            return
        texts = _string_tensor("text_output", [event.text for event in events])
        bodies = _string_tensor("event", [json.dumps(event.body, separators=(",", ":")) for event in events])
        self._sender.send(pb_utils.InferenceResponse(output_tensors=[texts, bodies]), flags=flags)

    def is_cancelled(self) -> bool:
        """See `channel.Writer`."""
        return bool(self._sender.is_cancelled())


def _string_tensor(name: str, strings: list[str]) -> Any:
    return pb_utils.Tensor(name, np.array([string.encode() for string in strings], dtype=np.object_))


def _read(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().flatten()
    if len(values) != 1:
        raise InvalidRequestError(f"{name} must have one element, not {len(values)}.", param=name)
    return values[0]


def _read_string(request: Any, name: str) -> str | None:
    value = _read(request, name)
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} is not UTF-8.", param=name) from error


def _read_json(request: Any, name: str) -> Any:
    value = _read_string(request, name)
    try:
        return None if value is None else json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} is not JSON: {error}", param=name) from error


def _read_own_parameters(request: Any) -> Any:
    try:
        return json.loads(request.parameters() or "{}")
    except (ValueError, RecursionError) as error:  # Triton hands strings on that are not UTF-8
        raise InvalidRequestError(f"parameters cannot be read: {error}", param="parameters") from error


def _check_messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError("messages must be a list with at least one message.", param="messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequestError("Each message must be an object with a role.", param="messages")
        if not isinstance(message.setdefault("content", ""), str):
            raise InvalidRequestError("The content of a message must be a string.", param="messages")
    return messages
