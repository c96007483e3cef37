"""The body of a response: bytes in, a checked `ResponsesRequest` out, or an error that names the field.

The rules are OpenAI's; unknown fields are disregarded and null is the same as absent. Nothing is kept between
requests, so what refers to an earlier one is refused. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from proxy.backend import Prompt
from proxy.chat_message import normalise
from proxy.errors import InvalidRequestError, require_at_most
from proxy.guided import JsonSchemaFormat, ResponseFormat
from proxy.json_body import decode
from proxy.responses_item import InputItem, messages
from proxy.sampling import Count, SamplingFields
from proxy.tools import FunctionDefinition, FunctionName, NamedToolChoice, Tool, ToolFields, ToolName

# What a stream's tokens come with their log probabilities for.
_LOGPROBS = "message.output_text.logprobs"
_NOTHING_KEPT = ("previous_response_id", "conversation", "prompt")
_OTHER_NAMES = {"max_tokens": "max_output_tokens", "response_format": "text.format"}


class TextFormat(msgspec.Struct, omit_defaults=True):
    """What the answer must look like: `text` is free, `json_object` any JSON object, `json_schema` JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct):
    """How the answer's text is wanted."""

    format: TextFormat | None = None


class ResponsesTool(msgspec.Struct):
    """A function that the model may call; functions are the only kind of tool."""

    type: str
    name: ToolName | None = None
    description: str | None = None
    parameters: Annotated[dict[str, Any], Meta(description="a JSON schema of the arguments")] | None = None
    strict: bool | None = None


class ResponsesToolChoice(msgspec.Struct):
    """The one function that must be called."""

    type: Literal["function"]
    name: ToolName


class ResponsesBody(SamplingFields, kw_only=True):
    """The body of `POST /v1/responses`. Fields that are not named here are disregarded."""

    model: Annotated[str, Meta(min_length=1, description="the consumer group")]
    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: Annotated[str, Meta(description="goes before the input as a system message")] | None = None
    max_output_tokens: Count | None = None
    tools: Annotated[list[ResponsesTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponsesToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: Annotated[list[str], Meta(description=f"{_LOGPROBS} is what there is")] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16, description="comes back as it is")] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Meta(description="vLLM's extension")] | None = None
    previous_response_id: Annotated[str, Meta(description="not supported: nothing is kept")] | None = None
    conversation: Annotated[Any, Meta(description="not supported: nothing is kept")] = None
    prompt: Annotated[Any, Meta(description="not supported: nothing is kept")] = None
    background: Annotated[bool, Meta(description="only false")] | None = None


_decoder = msgspec.json.Decoder(ResponsesBody)


class ResponsesRequest(msgspec.Struct, frozen=True):
    """A response that an engine can be asked for; `body` is what the answer repeats of its request."""

    body: ResponsesBody
    prompt: Prompt
    sampling_parameters: dict[str, Any]
    grammar_field: str


def parse(data: bytes, max_items: int) -> ResponsesRequest:
    """Check a request body against the rules.

    Raises:
        InvalidRequestError: with the offending field in `param`.
    """
    body = decode(data, _decoder)
    _refuse_unsupported(body)
    body.check(max_choices=1)
    if not isinstance(body.input, str):
        require_at_most(max_items, len(body.input), "items", param="input")
    turns = [normalise(turn, at) for at, turn in enumerate(messages(body.input, body.instructions))]
    if body.text is not None and body.text.format is not None:
        body.response_format = _format(body.text.format)
    tools = _tools(body)
    options = {} if body.chat_template_kwargs is None else {"chat_template_kwargs": body.chat_template_kwargs}
    parameters = body.parameters(max_tokens=body.max_output_tokens, logprobs=_num_logprobs(body))
    return ResponsesRequest(
        body,
        Prompt(messages=turns, options=options | tools.tool_options()),
        parameters | tools.tool_parameters(),
        "text.format" if body.grammar_field == "response_format" else body.grammar_field,
    )


def _refuse_unsupported(body: ResponsesBody) -> None:
    for name in _NOTHING_KEPT:
        if getattr(body, name) is not None:
            raise InvalidRequestError(
                f"'{name}' is not supported, because nothing is kept here between requests: send the whole "
                "conversation in 'input'.",
                param=name,
            )
    if body.background:
        raise InvalidRequestError("'background' is not supported: answers are given at once.", param="background")
    for name, theirs in _OTHER_NAMES.items():
        if getattr(body, name) is not None:
            raise InvalidRequestError(f"'{name}' is called '{theirs}' on this route.", param=name)


def _format(wanted: TextFormat) -> ResponseFormat:
    if wanted.type != "json_schema":
        return ResponseFormat(wanted.type)
    if wanted.schema is None:
        raise InvalidRequestError("'text.format.schema' is missing.", param="text.format")
    return ResponseFormat("json_schema", JsonSchemaFormat(wanted.name or "answer", wanted.schema, wanted.strict))


def _tools(body: ResponsesBody) -> ToolFields:
    choice = body.tool_choice
    return ToolFields(
        tools=[_tool(tool, at) for at, tool in enumerate(body.tools or [])],
        tool_choice=NamedToolChoice("function", FunctionName(choice.name))
        if isinstance(choice, ResponsesToolChoice)
        else choice,
        parallel_tool_calls=body.parallel_tool_calls,
    )


def _tool(tool: ResponsesTool, at: int) -> Tool:
    if tool.type != "function":
        raise InvalidRequestError(
            f"'tools[{at}]' is of type {tool.type!r:.100}, but only functions can be called here.", param="tools"
        )
    if tool.name is None:
        raise InvalidRequestError(f"'tools[{at}].name' is missing.", param="tools")
    return Tool("function", FunctionDefinition(tool.name, tool.description, tool.parameters, tool.strict))


def _num_logprobs(body: ResponsesBody) -> int | None:
    if body.top_logprobs or _LOGPROBS in (body.include or []):
        return body.top_logprobs or 0
    return None
