"""The forms in which models write calls of tools, as data: their marks, and the grammar of such an answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm.errors import InvalidRequestError
from llm.grammar import Grammar, json_rule

Tool = dict[str, Any]


@dataclass(frozen=True)
class ToolChoice:
    """Whether tools may or must be called.

    Attributes:
        mode: `named` calls the tool `name`, once.
        is_parallel: whether one answer may hold several calls.
    """

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""
    is_parallel: bool = True


@dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """One form of calls: `begin`, `{"name": ..., ARGUMENTS_KEY: {...}}`, `end`; or begin, name, `middle`, arguments.

    Attributes:
        begin: what stands before a call, or before the list of calls; empty: an answer that begins with `{`.
        end: what stands behind it; empty: the end of the answer.
        arguments_key: the key of the arguments.
        middle: what stands between name and arguments, where no JSON object holds both.
        is_list: whether `begin` is followed by a JSON list of calls.
        separator: what stands between two calls where `begin` is not repeated.
    """

    begin: str
    end: str = ""
    arguments_key: str = "arguments"
    middle: str = ""
    is_list: bool = False
    separator: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that some vocabularies have as special tokens, which are not shown to users."""
        return tuple(mark for mark in (self.begin.strip(), self.end.strip(), self.middle) if mark)


# Hermes 2 Pro, Qwen 2.5 and 3, and many that were trained after them.
HERMES = ToolFormat(begin="<tool_call>\n", end="\n</tool_call>")
# Llama 3.1 to 3.3: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/#json-based-tool-calling
LLAMA = ToolFormat(begin="", arguments_key="parameters", separator="; ")
# Mistral's tokenizers of version 3, and of version 11 and later.
MISTRAL_LIST = ToolFormat(begin="[TOOL_CALLS]", is_list=True)
MISTRAL_NAMED = ToolFormat(begin="[TOOL_CALLS]", middle="[ARGS]")


def detect(template: str, vocabulary: dict[str, int]) -> ToolFormat | None:
    """The form that a model was taught, by its chat template and its vocabulary; None if nothing tells of one."""
    if "[TOOL_CALLS]" in vocabulary or "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in vocabulary else MISTRAL_LIST
    if "<tool_call>" in template:
        return HERMES
    if '"parameters": ' in template and "<|start_header_id|>" in template:
        return LLAMA
    return None


def schema_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments; a tool without parameters takes an empty object.

    Raises:
        InvalidRequestError: it describes something else than an object, which is what arguments are.
    """
    parameters = tool["function"].get("parameters")
    if not parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if parameters.get("type", "object") != "object":
        name = tool["function"]["name"]
        raise InvalidRequestError(
            f"The parameters of the tool {name!r} cannot be used: their type must be object.", param="tools"
        )
    return {"type": "object", **parameters}


def grammar(
    form: ToolFormat,
    tools: Sequence[Tool],
    choice: ToolChoice,
    special: dict[str, int],
    otherwise: Grammar | None = None,
) -> Grammar:
    """The grammar of an answer that may, or must, call tools.

    Args:
        form: how the model writes calls.
        tools: OpenAI's tool objects.
        choice: whether they may or must be called.
        special: marks that are special tokens of the vocabulary, which a grammar names by their id.
        otherwise: what an answer that calls none is held to: a JSON grammar; None: free words.

    Raises:
        InvalidRequestError: the named tool is not there.
    """
    if choice.mode == "named":
        tools = [tool for tool in tools if tool["function"]["name"] == choice.name]
        if not tools:
            raise InvalidRequestError(f"tool_choice names {choice.name!r:.100}, which is no tool.", param="tool_choice")

    def mark(text: str) -> str:
        word = text.strip()
        return f"<[{special[word]}]>" if word in special else json.dumps(text)

    # A mark of words ends the text lazily, at its first appearance; a special token cannot be part of a text.
    rules = [_call(form, number, tool, mark) for number, tool in enumerate(tools)]
    rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(tools))))
    is_single = choice.mode == "named" or not choice.is_parallel
    rules += _calls(form, mark, is_single=is_single)
    if choice.mode == "auto" and otherwise is not None:
        schema = json.loads(otherwise.text) if otherwise.kind == "json_schema" else {"type": "object"}
        rules.append(f"start: calls | {json_rule(schema, is_lenient=otherwise.is_lenient, param=otherwise.param)}")
    elif choice.mode == "auto":
        rules += _free_text(form, mark, special, is_single=is_single)
    else:
        rules.append("start: calls")
    return Grammar("lark", "\n".join(rules), param="tools")


def _call(form: ToolFormat, number: int, tool: Tool, mark: Any) -> str:
    function = tool["function"]
    arguments = json_rule(schema_of(tool), is_lenient=function.get("strict") is not True, param="tools")
    name = json.dumps(function["name"], ensure_ascii=False)
    if form.middle:
        return f"call_{number}: {name} {mark(form.middle)} {arguments}"
    before = json.dumps(f'{{"name": {name}, "{form.arguments_key}": ', ensure_ascii=False)
    return f'call_{number}: {before} {arguments} "}}"'


def _calls(form: ToolFormat, mark: Any, *, is_single: bool) -> list[str]:
    """`rest`: the calls after the first `begin`; `calls`: with it."""
    end = f" {mark(form.end)}" if form.end else ""
    begin = f"{mark(form.begin)} " if form.begin else ""
    if form.is_list:
        more = "" if is_single else ' (", " call)*'
        return [f'rest: "[" call{more} "]"', f"calls: {begin}rest"]
    if not form.begin:
        more = "" if is_single else f" ({json.dumps(form.separator)} call)*"
        return [f"calls: call{more}"]
    more = "" if is_single else f' ("\\n"? {begin}call{end})*'
    return [f"rest: call{end}{more}", f"calls: {begin}rest"]


def _free_text(form: ToolFormat, mark: Any, special: dict[str, int], *, is_single: bool) -> list[str]:
    if not form.begin:
        return ["start: TEXT | calls", r"TEXT: /([^{\s](.|\n)*)?/"]
    word = form.begin.strip()
    if word in special:
        return ["start: TEXT | TEXT calls", r"TEXT: /(.|\n)*/"]
    # Once the mark has been written there is no way back: what follows is a call.
    first = [f"begun[lazy]: /(.|\\n)*/ {json.dumps(word)}", r"TEXT: /(.|\n)*/", r"blank: /\n?/"]
    end = f" {mark(form.end)}" if form.end else ""
    if form.is_list:
        return [*first, "start: TEXT | begun blank rest"]
    if is_single:
        return [*first, f"start: TEXT | begun blank call{end}"]
    return [*first, f"start: (begun blank call{end})* TEXT"]
