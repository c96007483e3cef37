"""Tensors to requests and events to tensors: the only file that names a tensor. See docs/tensor-contract.md."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import triton_python_backend_utils as pb_utils
from channel import Address
from event import Event
from llm.chat_prompt import PromptOptions
from llm.errors import InvalidRequestError
from llm.grammar import Grammar, GrammarKind
from llm.request import SamplingParams
from llm.tool_format import Tool, ToolChoice

Task = Literal["generate", "bundle", "describe", "pulse", "load", "tokenize", "detokenize"]


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """What one Triton request asks for; of `messages`, `text` and `input_ids` the first that is there counts."""

    task: Task
    bundle: str = ""
    address: Address | None = None
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    input_ids: tuple[int, ...] | None = None
    options: PromptOptions = field(default_factory=PromptOptions)
    is_stream: bool = False
    sampling: SamplingParams = field(default_factory=SamplingParams)
    grammar: Grammar | None = None
    tool_choice: ToolChoice = field(default_factory=ToolChoice)

    @property
    def tools(self) -> list[Tool]:
        """The tools that may be called."""
        return [] if self.tool_choice.mode == "none" else self.options.tools or []


def read_request(request: Any) -> ModelInput:
    """Read a Triton inference request.

    Raises:
        InvalidRequestError: an input is malformed.
    """
    task = _read_string(request, "task") or "generate"
    if task == "bundle":
        return ModelInput(task="bundle", bundle=_read_bundle(request))
    if task in ("describe", "pulse", "load"):
        return ModelInput(task=task)  # type: ignore[arg-type]
    if task not in get_args(Task):
        raise InvalidRequestError(f"task must be one of {', '.join(get_args(Task))}, not {task!r:.100}.", param="task")
    messages = _read_json(request, "messages")
    parameters = _read_parameters(request) if task == "generate" else {}
    given = ModelInput(
        task=task,  # type: ignore[arg-type]
        text=_read_string(request, "text_input"),
        messages=None if messages is None else _check_messages(messages),
        input_ids=_read_ids(request),
        options=read_options(_read_json(request, "prompt_options")),
        is_stream=bool(_read(request, "stream")),
        address=_read_address(request) if task == "generate" else None,
        sampling=read_sampling(parameters),
        grammar=read_grammar(parameters.get("grammar")),
        tool_choice=read_tool_choice(parameters.get("tool_choice"), parameters.get("parallel_tool_calls")),
    )
    if given.text is None and given.messages is None and given.input_ids is None:
        raise InvalidRequestError("One of messages, text_input and input_ids is needed.", param="messages")
    return given


def read_trace(request: Any) -> dict[str, str]:
    """The W3C trace context among the request's parameters, as far as it looks like one; empty: there is none."""
    parameters = _own_parameters(request)
    return {name: value for name in TRACE_PARAMETERS if isinstance(value := parameters.get(name), str)}


TRACE_PARAMETERS = ("traceparent", "tracestate")


def _read_address(request: Any) -> Address | None:
    """Where the request's parameters say that pieces of its answer shall go, as far as they say so."""
    match _own_parameters(request):
        case {"bundle": str(bundle), "recipient": int(recipient)}:
            return Address(bundle, recipient)
    return None


def _own_parameters(request: Any) -> Any:
    """The request's parameters; none where they cannot be read."""
    try:
        return _read_own_parameters(request)
    except InvalidRequestError:
        return {}


def read_options(options: Any) -> PromptOptions:
    """Check the types of `prompt_options`; null counts as absent, unknown names are disregarded.

    Raises:
        InvalidRequestError: a value has the wrong type.
    """
    if options is None:
        return PromptOptions()
    if not isinstance(options, Mapping):
        raise InvalidRequestError("prompt_options must be a JSON object.", param="prompt_options")
    given = {name: options[name] for name in _OPTION_TYPES if options.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, _OPTION_TYPES[name]):
            raise InvalidRequestError(f"{name} has the wrong type: {type(value).__name__}.", param=name)
    _check_tools(given.get("tools"))
    return PromptOptions(**given)


_OPTION_TYPES: dict[str, type] = {
    "chat_template_kwargs": dict,
    "tools": list,
    "add_special_tokens": bool,
    "add_generation_prompt": bool,
    "continue_final_message": bool,
}


def read_sampling(parameters: Any) -> SamplingParams:
    """Check the types of `sampling_parameters`; null counts as absent, unknown names are disregarded.

    Raises:
        InvalidRequestError: a value has the wrong type or is out of range.
    """
    if not isinstance(parameters, Mapping):
        raise InvalidRequestError("sampling_parameters must be a JSON object.", param="sampling_parameters")
    given: dict[str, Any] = {name: parameters[name] for name in _SAMPLING_TYPES if parameters.get(name) is not None}
    for name, value in given.items():
        kinds = _SAMPLING_TYPES[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidRequestError(f"{name} has the wrong type: {type(value).__name__}.", param=name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequestError(f"{name} must be a number.", param=name)
    if "stop" in given:
        given["stop"] = _all_of(str, "stop", [given["stop"]] if isinstance(given["stop"], str) else given["stop"])
    if "stop_token_ids" in given:
        given["stop_token_ids"] = _all_of(int, "stop_token_ids", given["stop_token_ids"])
    if "logit_bias" in given:
        given["logit_bias"] = tuple(_read_bias(token, bias) for token, bias in given["logit_bias"].items())
    if given.get("top_k") == -1:  # vLLM's way to say "all"
        given["top_k"] = 0
    return SamplingParams(**given)


_SAMPLING_TYPES: dict[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int,),
    "min_p": (int, float),
    "repetition_penalty": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
    "logit_bias": (dict,),
    "max_tokens": (int,),
    "min_tokens": (int,),
    "stop": (str, list),
    "stop_token_ids": (list,),
    "ignore_eos": (bool,),
    "seed": (int,),
    "n": (int,),
    "logprobs": (int,),
    "timeout": (int, float),
}


def read_grammar(grammar: Any) -> Grammar | None:
    """Check the shape of the sampling parameter `grammar`; what it says is for the compiler to check.

    Raises:
        InvalidRequestError: it is not one grammar of a kind that exists.
    """
    if grammar is None:
        return None
    kinds = [name for name in get_args(GrammarKind) if isinstance(grammar, Mapping) and grammar.get(name) is not None]
    if len(kinds) != 1:
        raise InvalidRequestError(
            f"grammar must be an object with one of {', '.join(get_args(GrammarKind))}.", param="grammar"
        )
    (kind,) = kinds
    value: Any = grammar[kind]
    if not isinstance(value, _GRAMMAR_TYPES[kind]):
        raise InvalidRequestError(f"{kind} has the wrong type: {type(value).__name__}.", param="grammar")
    if isinstance(value, list) and not _all_of(str, "choice", value):
        raise InvalidRequestError("choice must name at least one text.", param="grammar")
    return Grammar(kind, value if isinstance(value, str) else json.dumps(value), bool(grammar.get("is_lenient")))


_GRAMMAR_TYPES: dict[str, tuple[type, ...]] = {
    "json_object": (bool,),
    "json_schema": (dict, bool),
    "regex": (str,),
    "choice": (list,),
    "lark": (str,),
}


def read_tool_choice(choice: Any, is_parallel: Any) -> ToolChoice:
    """Check the sampling parameters `tool_choice` and `parallel_tool_calls`.

    Raises:
        InvalidRequestError: one of them has no meaning.
    """
    if not isinstance(is_parallel, bool | None):
        raise InvalidRequestError("parallel_tool_calls must be true or false.", param="parallel_tool_calls")
    several = is_parallel is not False
    match choice:
        case None:
            return ToolChoice(is_parallel=several)
        case "auto" | "none" | "required":
            return ToolChoice(choice, is_parallel=several)
        case {"name": str(name)}:
            return ToolChoice("named", name, is_parallel=False)
    raise InvalidRequestError('tool_choice must be "auto", "none", "required" or {"name": ...}.', param="tool_choice")


def _check_tools(tools: list[Any] | None) -> None:
    for tool in tools or ():
        match tool:
            case {"function": {"name": str(name), **function}} if _TOOL_NAME.fullmatch(name):
                if isinstance(function.get("parameters", {}), dict | None):
                    continue
        raise InvalidRequestError(
            'Each of tools must be {"type": "function", "function": {"name": ..., "parameters": {...}}}, with a name '
            "of at most 64 letters, digits, dots, dashes and underscores.",
            param="tools",
        )


_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _all_of(kind: type, name: str, values: list[Any]) -> tuple[Any, ...]:
    if not all(isinstance(value, kind) and not isinstance(value, bool) for value in values):
        raise InvalidRequestError(f"{name} must hold nothing but values of type {kind.__name__}.", param=name)
    return tuple(values)


def _read_bias(token: str, bias: Any) -> tuple[int, float]:
    is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
    if not is_number or not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequestError("logit_bias must map token ids to numbers.", param="logit_bias")
    return int(token), float(bias) if abs(bias) <= 100 else math.inf


class ResponseWriter:
    """A `channel.Writer` on the response sender of a decoupled Triton request."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self._is_to_acknowledge = _own_parameters(request).get("acknowledge") is True

    def send(self, events: list[Event], *, is_final: bool) -> None:
        """See `channel.Writer`."""
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_final else 0
        if not events:
            self._sender.send(flags=flags)
            return
        texts = _string_tensor("text_output", [event.text.encode() for event in events])
        bodies = _string_tensor("event", [_to_json(event.body) for event in events])
        self._sender.send(pb_utils.InferenceResponse(output_tensors=[texts, bodies]), flags=flags)

    def acknowledge(self) -> None:
        """See `channel.Writer`."""
        if self._is_to_acknowledge:
            self._sender.send(pb_utils.InferenceResponse(output_tensors=[]))

    def is_cancelled(self) -> bool:
        """See `channel.Writer`."""
        return bool(self._sender.is_cancelled())


_encoder = msgspec.json.Encoder()


def _to_json(body: dict[str, Any]) -> bytes:
    try:
        return _encoder.encode(body)
    except UnicodeEncodeError:  # half a surrogate pair, for which JSON has an escape
        return json.dumps(body).encode()


def _string_tensor(name: str, strings: list[bytes]) -> Any:
    return pb_utils.Tensor(name, np.array(strings, dtype=np.object_))


def _read(request: Any, name: str) -> Any:
    values = _read_all(request, name)
    if values is None:
        return None
    if len(values) != 1:
        raise InvalidRequestError(f"{name} must have one element, not {len(values)}.", param=name)
    return values[0]


def _read_all(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().flatten()


def _read_ids(request: Any) -> tuple[int, ...] | None:
    values = _read_all(request, "input_ids")
    if values is None:
        return None
    if len(values) == 0:
        raise InvalidRequestError("input_ids is empty.", param="input_ids")
    return tuple(values.tolist())


def _read_parameters(request: Any) -> Any:
    parameters = _read_json(request, "sampling_parameters")
    return _read_own_parameters(request) if parameters is None else parameters


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


def _read_bundle(request: Any) -> str:
    name = _own_parameters(request).get("bundle")
    if not isinstance(name, str) or not name:
        raise InvalidRequestError("A bundle needs a name, in the request's parameter bundle.", param="bundle")
    return name


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
