"""Grammars, on a vocabulary of single bytes and a walker that draws any token that is allowed."""

import json
import re
import time

import jsonschema
import pytest
from llm.errors import InvalidRequestError
from llm.grammar import MAX_GRAMMAR_BYTES, Grammar, Grammars
from transformers import PreTrainedTokenizerFast

from tests.engine.bytewise import END, VOCABULARY, allowed, bytewise_tokenizer, walk
from tests.json_schemas import SCHEMAS


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return bytewise_tokenizer()


@pytest.fixture(scope="module")
def grammars(tokenizer: PreTrainedTokenizerFast) -> Grammars:
    return Grammars(tokenizer, VOCABULARY, frozenset({END}))


def test_there_are_two_hundred_schemas():
    assert len(SCHEMAS) >= 200
    for schema in SCHEMAS:
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_way_through_a_schema_is_valid(grammars: Grammars, tokenizer: PreTrainedTokenizerFast):
    num_ended = 0
    for number, schema in enumerate(SCHEMAS):
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        for seed, constraint in enumerate(grammars.constraints(Grammar("json_schema", json.dumps(schema)), 3)):
            text = walk(constraint, tokenizer, seed=3 * number + seed)
            if text is not None:
                num_ended += 1
                validator.validate(json.loads(text))
    assert num_ended > 2.9 * len(SCHEMAS)


def test_an_object_is_any_object(grammars: Grammars, tokenizer: PreTrainedTokenizerFast):
    texts = [walk(c, tokenizer, seed) for seed, c in enumerate(grammars.constraints(Grammar("json_object"), 20))]
    answers = [json.loads(text) for text in texts if text is not None]
    assert answers
    assert all(isinstance(answer, dict) for answer in answers)


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (Grammar("regex", r"[ab]{2,5}-\d"), r"[ab]{2,5}-[0-9]"),
        (Grammar("choice", json.dumps(["yes", 'a "word"', "back\\slash", "日本"])), r'yes|a "word"|back\\slash|日本'),
        (Grammar("lark", 'start: "<" NAME ">"\nNAME: /[a-z]{1,3}/'), "<[a-z]{1,3}>"),
    ],
)
def test_other_kinds_of_grammars(
    grammars: Grammars, tokenizer: PreTrainedTokenizerFast, grammar: Grammar, pattern: str
):
    for seed, constraint in enumerate(grammars.constraints(grammar, 10)):
        text = walk(constraint, tokenizer, seed)
        assert text is not None
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strin"}, "strin"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "127.0.0.1"),
        ({"enum": []}, "Unsatisfiable"),
        (False, "Unsatisfiable"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength"),
        ({"type": "integer", "multipleOf": 999983}, "multipleOf"),
        ({"type": "number", "multipleOf": 0.000123457}, "multipleOf"),
        ({"type": "integer", "multipleOf": -3}, "multipleOf -3"),
        ({"type": "integer", "minimum": 2**53 + 1}, "minimum 9007199254740993"),
        ({"type": "number", "exclusiveMaximum": -1e300}, "exclusiveMaximum -1e+300"),
        ({"enum": [1, {"a": [2**70]}]}, "1180591620717411303424"),
        ({"additionalProperties": {"type": "null"}, "type": "object", "minProperties": 2}, "minProperties 2"),
        ({"$ref": "#"}, "no answer can follow it"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "no answer"),
        ({"enum": ["x" * MAX_GRAMMAR_BYTES]}, str(MAX_GRAMMAR_BYTES)),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_what_is_wrong_in_it(
    grammars: Grammars, schema: object, words: str
):
    with pytest.raises(InvalidRequestError, match=re.escape(words)) as refusal:
        grammars.constraints(Grammar("json_schema", json.dumps(schema)), 1)
    assert refusal.value.param == "grammar"
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "(" * 50),
        Grammar("lark", "start: nowhere"),
        Grammar("lark", "\0"),
        Grammar("json_schema", "{"),
        Grammar("json_schema", "[" * 60000),
        Grammar("json_schema", '"text"'),
        Grammar("json_schema", "NaN"),
        Grammar("json_schema", '{"type":"array","items":' * 2000 + "{}" + "}" * 2000),
    ],
)
def test_what_is_no_grammar_is_refused(grammars: Grammars, grammar: Grammar):
    with pytest.raises(InvalidRequestError):
        grammars.constraints(grammar, 1)


def test_lenient_schemas_leave_out_what_cannot_be_enforced(grammars: Grammars, tokenizer: PreTrainedTokenizerFast):
    schema = {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 2}
    (constraint,) = grammars.constraints(Grammar("json_schema", json.dumps(schema), is_lenient=True), 1)
    text = walk(constraint, tokenizer, seed=1)
    assert text is not None
    assert all(isinstance(item, bool) for item in json.loads(text))


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        # 64 bits are what many generators write; llguidance refused the lower bound and misread the upper one
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "9007199254740992", "9223372036854775808"),
        ({"type": "integer", "minimum": 2**53}, "9007199254740992", "-"),
        # a second `a` in other letters, which readers of JSON take for the value of the first
        (
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            '{"a": 1}',
            r'{"a": 1, "\u0061":',
        ),
        ({"const": "\x01/\u00e9"}, '"\\u0001/\u00e9"', '"\x01'),
        # values and names that look like keywords
        ({"const": {"multipleOf": 1e9, "minimum": 1e20}}, '{"multipleOf": 1000000000, "minimum":', '{"minimum"'),
        ({"type": "object", "properties": {"enum": {"const": 1}}, "required": ["enum"]}, '{"enum": 1}', '{"enum": 2'),
    ],
    ids=str,
)
def test_what_a_schema_says_is_what_may_be_written(
    grammars: Grammars, tokenizer: PreTrainedTokenizerFast, schema: object, yes: str, no: str
):
    assert is_begun_by(grammars, tokenizer, schema, yes)
    assert not is_begun_by(grammars, tokenizer, schema, no)


def is_begun_by(
    grammars: Grammars, tokenizer: PreTrainedTokenizerFast, schema: object, text: str, *, is_lenient: bool = False
) -> bool:
    (constraint,) = grammars.constraints(Grammar("json_schema", json.dumps(schema), is_lenient=is_lenient), 1)
    for token_id in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if token_id not in allowed(constraint):
            return False
        constraint.advance(token_id)
    return True


def test_a_lenient_schema_drops_bounds_that_cannot_be_held(grammars: Grammars, tokenizer: PreTrainedTokenizerFast):
    schema = {"type": "number", "minimum": 1e300}
    assert is_begun_by(grammars, tokenizer, schema, "-5", is_lenient=True)
    assert not is_begun_by(grammars, tokenizer, schema, '"5"', is_lenient=True)


@pytest.mark.parametrize(
    "schema",
    [
        # 1,200 patterns, each compared with all others: minutes
        {
            "type": "object",
            "patternProperties": {f"^p{i}.*x{i}$": {} for i in range(1200)},
            "additionalProperties": False,
        },
        # a few numbers with many digits: longer than anybody has waited
        {"anyOf": [{"type": "integer", "multipleOf": 99_991 - i, "minimum": i} for i in range(40)]},
    ],
    ids=lambda schema: str(schema)[:20],
)
def test_a_schema_that_takes_too_long_to_compile_is_given_up(grammars: Grammars, schema: object):
    """Compiling could not be interrupted, and kept one of two threads for minutes."""
    with pytest.raises(InvalidRequestError, match="to compile"):
        grammars.constraints(Grammar("json_schema", json.dumps(schema)), 1)
    grammars.constraints(Grammar("json_schema", json.dumps({"enum": [str(schema)[:20]]})), 1)


def test_there_is_no_endless_row_of_blanks(grammars: Grammars):
    (constraint,) = grammars.constraints(Grammar("json_object"), 1)
    constraint.advance(next(iter(allowed(constraint))))
    spaces = 0
    space = 32 + 188  # byte-level vocabularies sort the blank behind the letters
    while space in allowed(constraint) and spaces < 100:
        constraint.advance(space)
        spaces += 1
    assert spaces <= 34


def test_choices_do_not_share_their_state(grammars: Grammars, tokenizer: PreTrainedTokenizerFast):
    first, second = grammars.constraints(Grammar("regex", "abc"), 2)
    first.advance(allowed(first)[0])
    assert tokenizer.decode(allowed(first)) == "b"
    assert tokenizer.decode(allowed(second)) == "a"


def test_a_grammar_is_compiled_once(grammars: Grammars):
    grammar = Grammar("json_schema", json.dumps({"enum": [f"value {number}" for number in range(3000)]}))
    assert not grammars.is_known(grammar)
    grammars.constraints(grammar, 1)
    assert grammars.is_known(grammar)


@pytest.mark.parametrize("count", [700, 2200])
def test_a_monstrous_schema_is_refused_in_bounded_time(grammars: Grammars, count: int):
    """Of the kind that costs most: properties that may or may not be there.

    That the first token led nowhere was overlooked: the answer was refused half-written, or ended as `{}`.
    """
    schema = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(count)}}
    text = json.dumps(schema)
    assert len(text) < MAX_GRAMMAR_BYTES
    started = time.monotonic()
    with pytest.raises(InvalidRequestError, match=r"The schema cannot be used: .*row has .* items"):
        grammars.constraints(Grammar("json_schema", text), 1)
    assert time.monotonic() - started < 20  # 0.7 s on a quiet machine


def test_a_tokenizer_that_is_not_known_costs_the_grammars_only():
    with pytest.raises(InvalidRequestError, match="tokenizer"):
        Grammars(object(), VOCABULARY, frozenset({END})).constraints(Grammar("json_object"), 1)
