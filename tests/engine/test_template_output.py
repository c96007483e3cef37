"""Answers of models whose form is known by their tokenizer's response template alone."""

from typing import Any

import pytest
from llm import template_output
from llm.chat_output import ChatOutput
from llm.dialect import Dialect
from llm.grammar import Grammar
from llm.template_output import TemplateOutput
from llm.tool_format import ToolChoice

from tests.engine.bytewise import END, bytewise_tokenizer

TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}
SPECIAL = ("<turn>", "<call>", "</call>", "<thought>", "</thought>")
TEMPLATE = {
    "start_anchor": "<turn>model\n",
    "fields": {
        "content": {},
        "thinking": {"open": "<thought>", "close": "</thought>"},
        "tool_calls": {
            "open_pattern": r"<call>call:(?P<name>\w+)",
            "close": "</call>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
    },
}


@pytest.fixture
def tokenizer() -> Any:
    tokenizer = bytewise_tokenizer(SPECIAL)
    tokenizer.response_template = TEMPLATE
    tokenizer.chat_template = "{{ tools }}"
    return tokenizer


def read(tokenizer: Any, *pieces: str, prompt: str = "<turn>user\nHi<turn>model\n") -> Any:
    output = Dialect(tokenizer, frozenset({END})).output(tokenizer(prompt)["input_ids"], [TOOL], ToolChoice())
    assert isinstance(output, TemplateOutput)
    text = reasoning = ""
    calls = []
    for number, piece in enumerate(pieces):
        parts = output.push(piece, is_last=number == len(pieces) - 1)
        text += parts.text
        reasoning += parts.reasoning
        calls += [(part.index, part.name, part.arguments) for part in parts.tool_calls]
    return text, reasoning, calls


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Just words.", ("Just words.", "", [])),
        ("<thought>Hm.</thought>Yes.", ("Yes.", "Hm.", [])),
        ('<call>call:look{at: "us"}</call>', ("", "", [(0, "look", '{"at": "us"}')])),
        ("A <call>call:look{}</call> B", ("A  B", "", [(0, "look", "{}")])),
        (2 * '<call>call:look{at:"é"}</call>', ("", "", [(n, "look", '{"at": "é"}') for n in (0, 1)])),
        ("A <call>call:look{at</call> B", ("A {at B", "", [])),
        ('A <call>call:look{at:"cut', ('A {at:"cut', "", [])),
        ("A <cal", ("A <cal", "", [])),
    ],
)  # fmt: skip
def test_the_parts_are_the_same_however_the_text_is_split(tokenizer: Any, text: str, expected: Any):
    assert read(tokenizer, text) == expected
    assert read(tokenizer, *text) == expected
    assert read(tokenizer, text[:9], text[9:], "") == expected


def test_the_prompt_may_have_begun_the_thoughts(tokenizer: Any):
    assert read(tokenizer, "Hm.</thought>Yes.", prompt="<turn>model\n<thought>") == ("Yes.", "Hm.", [])


def test_forced_calls_are_held_to_a_form_and_read_by_it(tokenizer: Any):
    dialect = Dialect(tokenizer, frozenset({END}))
    assert isinstance(dialect.output([1], [TOOL], ToolChoice("required")), ChatOutput)
    assert dialect.grammar([TOOL], ToolChoice("required"), None)
    otherwise = Grammar("json_object")
    assert dialect.grammar([TOOL], ToolChoice(), otherwise) == otherwise
    assert dialect.marks([TOOL], ToolChoice()) == {tokenizer.convert_tokens_to_ids(text) for text in SPECIAL}


def test_a_form_that_we_know_is_read_by_us(tokenizer: Any):
    tokenizer.chat_template = "{{ tools }} <tool_call>"
    assert isinstance(Dialect(tokenizer, frozenset({END})).output([1], [TOOL], ToolChoice()), ChatOutput)


def test_a_template_that_is_none_is_left_out(tokenizer: Any):
    tokenizer.response_template = {"fields": {}}
    assert template_output.load(tokenizer) is None
