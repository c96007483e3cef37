"""Both libraries that could hold an answer to a schema, behind one face, for bench_grammar.py."""

import importlib
import json
from collections.abc import Callable
from typing import Any, Protocol

import llguidance
import numpy as np

Mask = np.ndarray[Any, np.dtype[np.int32]]


class Matcher(Protocol):
    """Follows one answer."""

    def fill(self, mask: Mask) -> None:
        """Write a bit for each token that may come next."""

    def advance(self, token_id: int) -> None:
        """Take a token."""

    @property
    def is_ended(self) -> bool:
        """Whether nothing may follow."""


Compile = Callable[[Any], Matcher]


class _Llguidance:
    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher
        if matcher.is_error():
            raise ValueError(matcher.get_error())

    def fill(self, mask: Mask) -> None:
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    def advance(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)

    @property
    def is_ended(self) -> bool:
        return bool(self._matcher.is_stopped())


def llguidance_compiler(tokenizer: Any) -> Compile:
    """Compiles JSON schemas with llguidance, as the engine does."""
    vocabulary = llguidance.LLTokenizer(
        tokenizer.backend_tokenizer.to_str(), n_vocab=len(tokenizer), eos_token=[tokenizer.eos_token_id]
    )

    def compile_schema(schema: Any) -> Matcher:
        schema = {True: {}, False: {"enum": []}}[schema] if isinstance(schema, bool) else schema
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_pattern": r" ?|\n {0,32}"}
        )
        return _Llguidance(llguidance.LLMatcher(vocabulary, grammar, log_level=0))

    return compile_schema


class _Xgrammar:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def fill(self, mask: Mask) -> None:
        self._matcher.fill_next_token_bitmask(mask.reshape(1, -1), 0)

    def advance(self, token_id: int) -> None:
        assert self._matcher.accept_token(token_id)

    @property
    def is_ended(self) -> bool:
        return bool(self._matcher.is_terminated())


def xgrammar_compiler(tokenizer: Any) -> Compile:
    """Compiles JSON schemas with xgrammar, which is not among our dependencies."""
    xgrammar = importlib.import_module("xgrammar")
    vocabulary = xgrammar.TokenizerInfo.from_huggingface(
        tokenizer, vocab_size=len(tokenizer), stop_token_ids=[tokenizer.eos_token_id]
    )
    compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1, cache_enabled=False)

    def compile_schema(schema: Any) -> Matcher:
        compiled = compiler.compile_json_schema(json.dumps(schema), max_whitespace_cnt=32)
        return _Xgrammar(xgrammar.GrammarMatcher(compiled))

    return compile_schema


COMPILERS: dict[str, Callable[[Any], Compile]] = {"llguidance": llguidance_compiler, "xgrammar": xgrammar_compiler}
