"""The request fields that let a model call tools, and the calls in its answer: OpenAI's `tools` and `tool_choice`."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from proxy.backend import ToolCallPart
from proxy.errors import InvalidRequestError
from proxy.sampling import SamplingFields

ToolName = Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$")]


class FunctionDefinition(msgspec.Struct):
    """A function that the model may call. Unless it is `strict`, keywords that cannot be enforced are disregarded."""

    name: ToolName
    description: str | None = None
    parameters: Annotated[dict[str, Any], Meta(description="a JSON schema of the arguments")] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(msgspec.Struct):
    """Which function to call."""

    name: ToolName


class NamedToolChoice(msgspec.Struct):
    """The one tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class ToolFields(SamplingFields, kw_only=True):
    """The fields as they come."""

    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None

    def tool_options(self) -> dict[str, Any]:
        """The contract's prompt options: the tools as the chat template gets them."""
        if not self.tools or self.tool_choice == "none":
            return {}
        return {"tools": [_without_nulls(tool) for tool in self.tools]}

    def tool_parameters(self) -> dict[str, Any]:
        """The contract's sampling parameters.

        Raises:
            InvalidRequestError: a call is asked for and there is nothing to call.
        """
        if not self.tools:
            if self.tool_choice in (None, "none", "auto"):
                return {}
            raise InvalidRequestError("'tool_choice' is only allowed when 'tools' are given.", param="tool_choice")
        choice = self.tool_choice
        if isinstance(choice, NamedToolChoice):
            name = choice.function.name
            if name not in {tool.function.name for tool in self.tools}:
                raise InvalidRequestError(f"'tool_choice' names {name!r}, which is no tool.", param="tool_choice")
            return {"tool_choice": {"name": name}}
        given = {"tool_choice": choice, "parallel_tool_calls": self.parallel_tool_calls}
        return {name: value for name, value in given.items() if value is not None}


def _without_nulls(tool: Tool) -> dict[str, Any]:
    # Templates write a tool as it is; a null would be read by the model.
    function = msgspec.structs.asdict(tool.function)
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


class FunctionCall(msgspec.Struct):
    """A call's name and arguments, which are JSON in a string; in a stream each is there as far as it comes."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """One call of a tool, whole."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ToolCallDelta(msgspec.Struct):
    """A piece of a call: `id`, `type` and the function's name come first, arguments follow."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionCall | UnsetType = UNSET


def deltas(parts: Iterable[ToolCallPart]) -> list[ToolCallDelta]:
    """The parts as a stream has them."""
    return [_delta(part) for part in parts]


def calls(parts: Iterable[ToolCallPart]) -> list[ToolCall]:
    """The whole calls that the parts add up to."""
    whole: dict[int, ToolCall] = {}
    for part in parts:
        if part.name is not None:
            whole[part.index] = ToolCall(new_call_id(), "function", FunctionCall(part.name))
        whole[part.index].function.arguments += part.arguments
    return [call for _, call in sorted(whole.items())]


def is_whole(arguments: str) -> bool:
    """Whether a call's arguments have been written to their end."""
    try:
        msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def new_call_id() -> str:
    """A fresh id: nine letters and digits, because Mistral's chat templates refuse any other when it comes back."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def _delta(part: ToolCallPart) -> ToolCallDelta:
    if part.name is None:
        return ToolCallDelta(part.index, function=FunctionCall(arguments=part.arguments))
    return ToolCallDelta(part.index, new_call_id(), "function", FunctionCall(part.name, part.arguments))
