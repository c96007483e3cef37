"""Grammars that an answer must follow: compiled by llguidance, a mask of tokens at a time.

Compiling and copying take milliseconds, for monstrous schemas a second: they belong on another thread than the
engine's. Masks take microseconds.
"""

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from llm.errors import InvalidRequestError

log = logging.getLogger(__name__)

GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark"]

# Of the grammar as the client sends it. 2,700 properties fit, and compile within a second on a slow core.
MAX_GRAMMAR_BYTES = 65_536
# llguidance spends as many automaton states, and microseconds, as the divisor has units in its last place.
MAX_MULTIPLE = 100_000
NUM_CACHED = 128

# Room for a line break and an indentation, but no endless row of blanks, which small models love to write.
_WHITESPACE = r" ?|\n {0,32}"
# A quarter of llguidance's own bound of work for one mask: a hostile schema shall not hold up the batch for long.
_LIMITS = LLParserLimits(step_lexer_fuel=50_000, step_max_items=25_000, verbose_errors=False)


@dataclass(frozen=True)
class Grammar:
    """What an answer must look like.

    Attributes:
        kind: how to read `text`.
        text: a JSON schema, a regular expression, a JSON list of texts, or a grammar in llguidance's Lark dialect.
        is_lenient: disregard what a JSON schema asks for beyond what can be enforced, instead of refusing it.
        param: the request field that it comes from, for errors.
    """

    kind: GrammarKind
    text: str = ""
    is_lenient: bool = False
    param: str = "grammar"


class GrammarConstraint:
    """A `request.TokenConstraint` for one choice."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def must_end(self) -> bool:
        """See `request.TokenConstraint`."""
        return bool(self._matcher.is_stopped())

    def fill(self, mask: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        """See `request.TokenConstraint`."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            reason = _one_line(self._matcher.get_error())
            raise InvalidRequestError(f"The answer's grammar cannot be followed any further: {reason}", param="grammar")

    def advance(self, token_id: int) -> None:
        """See `request.TokenConstraint`."""
        self._matcher.consume_token(token_id)


class Grammars:
    """Compiles grammars for one model's vocabulary and remembers the latest.

    Args:
        tokenizer: a transformers tokenizer.
        vocabulary_size: width of the model's logits, which may exceed the tokenizer's own.
        end_token_ids: tokens that may end an answer where the grammar lets it end.
    """

    def __init__(self, tokenizer: Any, vocabulary_size: int, end_token_ids: frozenset[int]) -> None:
        self._vocabulary = _vocabulary(tokenizer, vocabulary_size, sorted(end_token_ids))
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def is_known(self, grammar: Grammar) -> bool:
        """Whether its constraints are there at once."""
        with self._lock:
            return grammar in self._compiled

    def constraints(self, grammar: Grammar, count: int) -> tuple[GrammarConstraint, ...]:
        """A constraint for each of `count` choices. Any thread but the engine's.

        Raises:
            InvalidRequestError: the grammar is none, or asks for what cannot be enforced; says what.
        """
        matcher = self._matcher(grammar)
        return tuple(GrammarConstraint(matcher.deep_copy()) for _ in range(count))

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        with self._lock:
            if known := self._compiled.get(grammar):
                self._compiled.move_to_end(grammar)
                return known
        if self._vocabulary is None:
            raise InvalidRequestError("This model's tokenizer cannot be held to a grammar.", param=grammar.param)
        matcher = LLMatcher(self._vocabulary, _source(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > NUM_CACHED:
                self._compiled.popitem(last=False)
        return matcher


def _vocabulary(tokenizer: Any, size: int, end_token_ids: list[int]) -> LLTokenizer | None:
    try:
        return LLTokenizer(tokenizer.backend_tokenizer.to_str(), n_vocab=size, eos_token=end_token_ids)
    except Exception as error:
        log.warning("answers cannot be held to grammars: llguidance does not know this tokenizer: %s", error)
        return None


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own form.

    Raises:
        InvalidRequestError: it is too large, or not what its kind says.
    """
    if len(grammar.text.encode(errors="replace")) > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(f"The grammar has more than {MAX_GRAMMAR_BYTES} bytes.", param=grammar.param)
    match grammar.kind:
        case "json_object":
            return _json({"type": "object"}, grammar)
        case "json_schema":
            return _json(_parsed(grammar), grammar)
        case "regex":
            # \d and \w as JSON Schema has them: letters and digits of ASCII
            return str(LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(grammar.text, 'dw')}/"))
        case "choice":
            choices = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in _parsed(grammar))
            return str(LLMatcher.grammar_from_lark(f"start: {choices}"))
        case "lark":
            return str(LLMatcher.grammar_from_lark(grammar.text))


def json_rule(schema: Any, *, is_lenient: bool, param: str) -> str:
    """The part of a Lark grammar that stands for a value by this schema.

    Raises:
        InvalidRequestError: the schema, which comes from the request field `param`, cannot be used.
    """
    _check_multiples(schema, param)
    if not isinstance(schema, dict):
        return "%json {}"
    options = {"whitespace_pattern": _WHITESPACE, "lenient": is_lenient}
    return f"%json {json.dumps({**schema, 'x-guidance': options})}"


def _json(schema: Any, grammar: Grammar) -> str:
    _check_multiples(schema, grammar.param)
    schema = {True: {}, False: {"enum": []}}[schema] if isinstance(schema, bool) else schema
    try:
        return str(
            LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides={"whitespace_pattern": _WHITESPACE, "lenient": grammar.is_lenient}
            )
        )
    except (ValueError, RecursionError) as error:
        raise _refusal(grammar, str(error)) from error


def _parsed(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The {grammar.kind} is not JSON: {error}", param=grammar.param) from error


def _check_multiples(schema: Any, param: str) -> None:
    pending = [schema]
    while pending:
        match pending.pop():
            case dict() as node:
                multiple = node.get("multipleOf")
                if isinstance(multiple, int | float) and multiple:
                    digits = f"{multiple:.12f}".rstrip("0").replace(".", "").lstrip("0-")
                    if int(digits or 1) > MAX_MULTIPLE:
                        raise InvalidRequestError(
                            f"The schema cannot be used: multipleOf {multiple} has too many digits.", param=param
                        )
                pending.extend(node.values())
            case list() as nodes:
                pending.extend(nodes)


def _refusal(grammar: Grammar, reason: str) -> InvalidRequestError:
    what = "schema" if grammar.kind.startswith("json") else "grammar"
    return InvalidRequestError(f"The {what} cannot be used: {_one_line(reason)}", param=grammar.param)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) < 300 else f"{line[:297]}..."
