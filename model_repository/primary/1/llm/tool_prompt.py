"""Tools in conversations whose chat template knows none: described and quoted in Hermes' form, as plain text."""

import json
from collections.abc import Sequence
from typing import Any

from llm.tool_format import HERMES, Tool

Message = dict[str, Any]

_INSTRUCTIONS = """You can call functions. Each line here describes one, with a JSON schema of its arguments:
<tools>
{tools}
</tools>
To call a function, answer with its name and arguments in this form:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>
What it returns is shown to you between <tool_response> tags. Call a function only where it helps."""


def knows_tools(template: str) -> bool:
    """Whether a chat template does anything with tools."""
    return "tools" in template or "tool_calls" in template


def describe(messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[Message]:
    """The conversation with its tools, calls and results written out."""
    turns = [_as_text(message) for message in messages]
    if not tools:
        return turns
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    instructions = _INSTRUCTIONS.format(tools=listed)
    if turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{instructions}"}, *turns[1:]]
    return [{"role": "system", "content": instructions}, *turns]


def _as_text(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [f"{HERMES.begin}{json.dumps(_call(call), ensure_ascii=False)}{HERMES.end}" for call in calls]
    content = "\n".join([message["content"], *written] if message["content"] else written)
    return {"role": message["role"], "content": content}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"name": function["name"], "arguments": function["arguments"]}


def with_objects(messages: Sequence[Message]) -> list[Message]:
    """The messages with the arguments of their calls as objects, which is what chat templates expect."""
    return [_with_objects(message) if message.get("tool_calls") else message for message in messages]


def _with_objects(message: Message) -> Message:
    calls = [{**call, "function": {**call["function"], "arguments": _object(call)}} for call in message["tool_calls"]]
    return {**message, "tool_calls": calls}


def _object(call: dict[str, Any]) -> Any:
    arguments = call["function"].get("arguments") or "{}"
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments
