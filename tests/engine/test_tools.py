"""Tools: grammars that make every call valid, and readers that find the calls again, however the text arrives."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm.chat_output import ChatOutput
from llm.errors import InvalidRequestError
from llm.grammar import Grammar, Grammars
from llm.reasoning import AfterReasoning, ReasoningTags, detect
from llm.tool_format import HERMES, LLAMA, MISTRAL_LIST, MISTRAL_NAMED, Tool, ToolChoice, ToolFormat, grammar

from tests.engine.bytewise import END, VOCABULARY, allowed, bytewise_tokenizer, walk

FORMS = {"hermes": HERMES, "llama": LLAMA, "mistral list": MISTRAL_LIST, "mistral named": MISTRAL_NAMED}
TAGS = ReasoningTags("<think>", "</think>", 257, 258)


def tool(name: str, **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = tool("get_weather", city={"type": "string", "maxLength": 9}, days={"type": "integer", "maximum": 9})
CLOCK = {"type": "function", "function": {"name": "clock"}}
SPECIAL = ("[TOOL_CALLS]", "[ARGS]")


def read(form: ToolFormat | None, *pieces: str, tags: ReasoningTags | None = None, is_reasoning: bool = False) -> Any:
    """Words, thoughts, and the calls as (name, arguments) that the pieces add up to."""
    output = ChatOutput(tags, is_reasoning=is_reasoning, form=form)
    text = reasoning = ""
    calls: dict[int, list[str]] = {}
    for number, piece in enumerate(pieces):
        parts = output.push(piece, is_last=number == len(pieces) - 1)
        text += parts.text
        reasoning += parts.reasoning
        for part in parts.tool_calls:
            assert (part.name is not None) == (part.index not in calls), "the name comes first, and once"
            calls.setdefault(part.index, [part.name or "", ""])[1] += part.arguments
    return text, reasoning, [tuple(call) for _, call in sorted(calls.items())]


def written(form: ToolFormat, *calls: tuple[str, str]) -> str:
    """The calls as a model of this form writes them."""
    if form.middle:
        return "".join(f"{form.begin}{name}{form.middle}{arguments}" for name, arguments in calls)
    objects = [f'{{"name": "{name}", "{form.arguments_key}": {arguments}}}' for name, arguments in calls]
    if form.is_list:
        return f"{form.begin}[{', '.join(objects)}]"
    if not form.begin:
        return form.separator.join(objects)
    return "\n".join(f"{form.begin}{written}{form.end}" for written in objects)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("mode", ["required", "named", "auto"])
@pytest.mark.parametrize("is_parallel", [True, False])
def test_whatever_the_grammar_lets_through_reads_as_valid_calls(form: ToolFormat, mode: Any, is_parallel: bool):
    tokenizer = bytewise_tokenizer(special=SPECIAL if form.begin.startswith("[") else ())
    special = {word: 257 + number for number, word in enumerate(SPECIAL)} if form.begin.startswith("[") else {}
    choice = ToolChoice(mode, "get_weather" if mode == "named" else "", is_parallel)
    source = grammar(form, [WEATHER, CLOCK], choice, special)
    for seed, constraint in enumerate(Grammars(tokenizer, VOCABULARY, frozenset({END})).constraints(source, 12)):
        text = walk(constraint, tokenizer, seed)
        assert text is not None
        words, _, calls = read(form, text)
        if mode != "auto":
            assert (words, bool(calls)) == ("", True)
        if mode == "named":
            assert [name for name, _ in calls] == ["get_weather"]
        if not is_parallel:
            assert len(calls) <= 1
        for name, arguments in calls:
            schema = WEATHER["function"]["parameters"] if name == "get_weather" else {"maxProperties": 0}
            jsonschema.validate(json.loads(arguments), schema)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_where_a_call_may_but_need_not_be_made_a_begun_one_is_made_properly(form: ToolFormat):
    special = {word: 257 + number for number, word in enumerate(SPECIAL)} if form.begin.startswith("[") else {}
    tokenizer = bytewise_tokenizer(special=SPECIAL if special else ())
    source = grammar(form, [WEATHER], ToolChoice(), special)
    call = written(form, ("get_weather", '{"city": "Kyoto", "days": 3}'))
    wrong = written(form, ("get_wether", '{"city": "Kyoto", "days": 3}'))
    plain = "It is not <b>cold</b>; {maybe}."
    grammars = Grammars(tokenizer, VOCABULARY, frozenset({END}))
    texts = [call, plain] if not form.begin else [call, plain, f"Let me see.\n{call}"]
    for text in texts:
        assert follows(grammars, tokenizer, source, text), text
    assert not follows(grammars, tokenizer, source, wrong)


def follows(grammars: Grammars, tokenizer: Any, source: Grammar, text: str) -> bool:
    (constraint,) = grammars.constraints(source, 1)
    for token_id in [*tokenizer(text, add_special_tokens=False)["input_ids"], END]:
        if token_id not in allowed(constraint):
            return False
        constraint.advance(token_id)
    return True


def test_an_answer_that_calls_nothing_can_be_held_to_a_schema():
    tokenizer = bytewise_tokenizer()
    schema = Grammar(
        "json_schema", json.dumps({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]})
    )
    source = grammar(HERMES, [CLOCK], ToolChoice(), {}, schema)
    grammars = Grammars(tokenizer, VOCABULARY, frozenset({END}))
    assert follows(grammars, tokenizer, source, '{"a": 1}')
    assert follows(grammars, tokenizer, source, written(HERMES, ("clock", "{}")))
    assert not follows(grammars, tokenizer, source, "Hello")


def test_a_named_tool_must_be_there():
    with pytest.raises(InvalidRequestError, match="get_time") as refusal:
        grammar(HERMES, [WEATHER], ToolChoice("named", "get_time"), {})
    assert refusal.value.param == "tool_choice"


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"type": ["object", "null"]}, {"type": "array"}])
def test_arguments_are_an_object(parameters: Any):
    """They were let through, and the call that came was none: it was shown as words."""
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(InvalidRequestError, match="'f'") as refusal:
        grammar(HERMES, [WEATHER, tool], ToolChoice("required"), {})
    assert refusal.value.param == "tools"


def test_arguments_are_an_object_also_where_the_schema_does_not_say_so():
    tokenizer = bytewise_tokenizer()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"const": 1}}}}}
    source = grammar(HERMES, [tool], ToolChoice("required"), {})
    grammars = Grammars(tokenizer, VOCABULARY, frozenset({END}))
    assert follows(grammars, tokenizer, source, written(HERMES, ("f", '{"a": 1}')))
    assert not follows(grammars, tokenizer, source, written(HERMES, ("f", "5")))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_schema_that_cannot_be_used_is_named_by_its_tool(form: ToolFormat):
    special = {word: 257 + number for number, word in enumerate(SPECIAL)} if form.begin.startswith("[") else {}
    grammars = Grammars(bytewise_tokenizer(special=SPECIAL if special else ()), VOCABULARY, frozenset({END}))
    wrong = {
        "type": "function",
        "function": {"name": "get.it-now", "parameters": {"properties": {"a": {"type": "strnig"}}}},
    }
    with pytest.raises(InvalidRequestError) as refusal:
        grammars.constraints(grammar(form, [WEATHER, wrong], ToolChoice("required"), special), 1)
    assert refusal.value.message == "The parameters of the tool 'get.it-now' cannot be used: Invalid type: strnig"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_answer_that_is_cut_shows_nothing_of_a_calls_form(form: ToolFormat):
    """Half an end mark, or a call without its name, used to come out as words."""
    text = written(form, ("get_weather", '{"city": "Kyoto"}'), ("clock", "{}"))
    for length in range(len(text) + 1):
        output = ChatOutput(None, is_reasoning=False, form=form)
        pieces = [output.push(text[:length]), output.push("", is_last=True, is_cut=True)]
        begun = min(length, len(form.begin.strip()))
        assert "".join(piece.text for piece in pieces) in ("", form.begin[:begun]), text[:length]
    output = ChatOutput(None, is_reasoning=False, form=form)
    assert output.push("1 <", is_last=True, is_cut=True).text == "1 <"


VALUES = st.one_of(st.text(max_size=8), st.integers(), st.lists(st.text('{[]}\\"', max_size=6), max_size=3))
CALLS = st.lists(
    st.tuples(st.sampled_from(["f", "get.it-now"]), st.dictionaries(st.text(max_size=5), VALUES, max_size=3)),
    max_size=3,
)


@given(st.data(), st.sampled_from(list(FORMS.values())), CALLS, st.text('ab <tool_call>{}\n[]"', max_size=12))
def test_calls_and_words_are_the_same_however_the_text_is_split(data, form, calls, before):
    made = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    before = before if form.begin or not made else ""
    text = before + (written(form, *made) if made else "")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(form, text)
    assert read(form, *pieces) == whole
    if "<tool_call>" not in before and not before.lstrip().startswith("{"):
        assert whole[2] == made
        assert whole[0] == (before.rstrip("\n") if made else before)


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', ("", "", [("f", '{"a": 1}')])),
        (HERMES, '<tool_call>\n{"name": "f"}\n</tool_call>', ("", "", [("f", "{}")])),
        (HERMES, "<tool_call>not json</tool_call>", ("<tool_call>not json</tool_call>", "", [])),
        (HERMES, '<tool_call>{"name": 5}</tool_call>', ('<tool_call>{"name": 5}</tool_call>', "", [])),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "cut', ("", "", [("f", '{"a": "cut')])),
        (HERMES, 'A<tool_call>{"name": "f", "arguments": {}}</tool_call>\nB', ("AB", "", [("f", "{}")])),
        (LLAMA, '{"name": "f", "parameters": {"a": "}"}}', ("", "", [("f", '{"a": "}"}')])),
        (LLAMA, '{"city": "Rome"}', ('{"city": "Rome"}', "", [])),
        (LLAMA, 'I say {"name": "f", "parameters": {}}', ('I say {"name": "f", "parameters": {}}', "", [])),
        (MISTRAL_LIST, '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]',
         ("", "", [("f", "{}"), ("g", "{}")])),
        (MISTRAL_NAMED, "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{}", ("", "", [("f", "{}"), ("g", "{}")])),
        (MISTRAL_NAMED, "[TOOL_CALLS]and on it goes", ("[TOOL_CALLS]and on it goes", "", [])),
    ],
)  # fmt: skip
def test_what_models_write(form: ToolFormat, text: str, expected: Any):
    assert read(form, text) == expected
    assert read(form, *text) == expected


@pytest.mark.parametrize(
    ("text", "is_reasoning", "expected"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, ("Yes.", "\nHm.\n", [])),
        ("Hm.\n</think>\n\nYes.", True, ("Yes.", "Hm.\n", [])),
        ("Yes, <think> is a tag.", False, ("Yes, <think> is a tag.", "", [])),
        ("<think>cut off", False, ("", "cut off", [])),
        ("<thi", False, ("<thi", "", [])),
        ('<think>x</think><tool_call>{"name": "f", "arguments": {}}</tool_call>', False, ("", "x", [("f", "{}")])),
    ],
)
def test_thoughts_are_told_from_the_answer(text: str, is_reasoning: bool, expected: Any):
    assert read(HERMES, text, tags=TAGS, is_reasoning=is_reasoning) == expected
    assert read(HERMES, *text, tags=TAGS, is_reasoning=is_reasoning) == expected


def test_a_grammar_waits_for_the_end_of_the_thoughts():
    tokenizer = bytewise_tokenizer(plain=("<think>", "</think>"))
    tags = detect(tokenizer.get_vocab(), "{{ '</think>' }}")
    assert tags == TAGS
    grammars = Grammars(tokenizer, VOCABULARY, frozenset({END}))
    for is_open in (True, False):
        (inner,) = grammars.constraints(Grammar("regex", "yes"), 1)
        constraint = AfterReasoning(inner, tags, is_open=is_open, end_token_ids=frozenset({END}))
        if not is_open:
            assert tags.begin_id in allowed(constraint)
            constraint.advance(tags.begin_id)
        assert END not in allowed(constraint), "an answer cannot end before it has begun"
        assert len(allowed(constraint)) >= 256
        for token_id in (*tokenizer("any words")["input_ids"], tags.end_id):
            constraint.advance(token_id)
        assert walk(constraint, tokenizer, seed=1) == "yes"
        assert constraint.must_end


def test_the_prompts_end_tells_whether_the_thoughts_have_begun():
    assert TAGS.is_opened([1, 2, 257, 10])
    assert not TAGS.is_opened([257, 1, 258, 10])
    assert TAGS.is_closed([257, 1, 258, 10])
    assert not TAGS.is_closed([258, *range(20)])
