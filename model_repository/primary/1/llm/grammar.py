"""Grammars that an answer must follow: compiled by llguidance, a mask of tokens at a time.

Compiling and copying take milliseconds, for monstrous schemas a second: they belong on another thread than the
engine's. Masks take microseconds.
"""

import json
import logging
import re
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
from llguidance import LLMatcher, LLTokenizer, regex_to_lark

from llm.errors import InvalidRequestError
from llm.grammar_trial import LIMITS, GrammarTrial, TrialError
from llm.json_schema import enforceable

log = logging.getLogger(__name__)

GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark"]

# Of the grammar as the client sends it. 2,700 required properties fit, and compile within a second on a slow core;
# llguidance follows some 500 that may be left out.
MAX_GRAMMAR_BYTES = 65_536
NUM_CACHED = 128

# Room for a line break and an indentation, but no endless row of blanks, which small models love to write.
_WHITESPACE = r" ?|\n {0,32}"
# Without \\u: a key could be written once more in other letters, with a value of another type.
_ESCAPES = 'nrbtf\\"'


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
        self._trial = GrammarTrial(vocabulary_size)
        self._num_words = -(-vocabulary_size // 32)
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
        matcher = self._compile(self._vocabulary, grammar)
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > NUM_CACHED:
                self._compiled.popitem(last=False)
        return matcher

    def _compile(self, vocabulary: LLTokenizer, grammar: Grammar) -> LLMatcher:
        source = _source(grammar)
        try:
            self._trial.run(source)
        except TrialError as error:
            raise _refusal(grammar, str(error)) from error
        matcher = LLMatcher(vocabulary, source, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        self._try_to_begin(matcher.deep_copy(), grammar)
        return matcher

    def _try_to_begin(self, matcher: LLMatcher, grammar: Grammar) -> None:
        """Some grammars turn out to be too large, or to have no answer, when the first tokens are asked for."""
        for _ in range(2):
            mask = np.zeros(self._num_words, dtype=np.int32)
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            if not matcher.is_error() and len(allowed):
                matcher.consume_token(int(allowed[0]))
            if matcher.is_error() or not len(allowed):
                reason = matcher.get_error()
                is_dead_end = not reason or "NoExtension" in reason
                raise _refusal(grammar, "no answer can follow it" if is_dead_end else reason)
            if matcher.is_stopped():
                return


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
    return f"%json {json.dumps(_with_options(schema, is_lenient=is_lenient, param=param))}"


def _with_options(schema: Any, *, is_lenient: bool, param: str) -> Any:
    schema = enforceable(schema, is_lenient=is_lenient, param=param)
    schema = {True: {}, False: {"enum": []}}[schema] if isinstance(schema, bool) else schema
    if not isinstance(schema, dict):
        raise InvalidRequestError("The schema cannot be used: it must be an object or a boolean.", param=param)
    options: dict[str, Any] = {"whitespace_pattern": _WHITESPACE, "lenient": is_lenient}
    if "\\u" not in json.dumps(schema, ensure_ascii=False):  # it names no control character
        options["json_allowed_escapes"] = _ESCAPES
    return {**schema, "x-guidance": options}


def _json(schema: Any, grammar: Grammar) -> str:
    schema = _with_options(schema, is_lenient=grammar.is_lenient, param=grammar.param)
    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    except (ValueError, RecursionError) as error:
        raise _refusal(grammar, str(error)) from error


def _parsed(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The {grammar.kind} is not JSON: {error}", param=grammar.param) from error


# How llguidance speaks of a schema inside of a grammar: by its line, which is that of a tool.
_IN_RULE = re.compile(r"at (?P<line>\d+)\(\d+\): failed to compile JSON schema: (?P<reason>.*?)(?: \d+ \| |$)")
_TOOL = re.compile(r'call_\d+: "(?:{\\"name\\": \\")?(?P<name>[\w.-]+)')


def _refusal(grammar: Grammar, reason: str) -> InvalidRequestError:
    line = _one_line(reason)
    what = "schema" if grammar.kind.startswith("json") else "grammar"
    if grammar.param == "tools":
        what = "tools"
        if found := _IN_RULE.search(line):
            tool = _TOOL.match(grammar.text.splitlines()[int(found["line"]) - 1])
            what, line = f"parameters of the tool {tool and tool['name']!r}", found["reason"]
    return InvalidRequestError(f"The {what} cannot be used: {line}", param=grammar.param)


def _one_line(text: str) -> str:
    """What llguidance says, without the place where it would have said more."""
    line = " ".join(text.replace("<non-verbose/>", "").split())
    return line if len(line) < 300 else f"{line[:297]}..."
