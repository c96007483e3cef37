"""Ids become the text that transformers makes of them, whichever way it is asked for."""

from itertools import product
from typing import Any

import pytest
from llm.model_loader import SkippingDecoder

from tests.engine.tiny_models import byte_tokenizer


@pytest.mark.parametrize("clean_up", [False, True])
def test_the_short_way_gives_what_transformers_gives(clean_up: bool):
    tokenizer = byte_tokenizer()
    tokenizer.clean_up_tokenization_spaces = clean_up  # which a stream cannot have: it joins pieces
    decoder = SkippingDecoder(tokenizer)
    for ids in product([*tokenizer("a .é")["input_ids"], *tokenizer.added_tokens_decoder], repeat=3):
        wanted = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert decoder.decode(list(ids)) == wanted
    assert decoder.decode([]) == ""


def test_a_tokenizer_with_a_decoding_of_its_own_keeps_it():
    plain = byte_tokenizer()

    class Shouting(type(plain)):  # type: ignore[misc]
        def _decode(self, *arguments: Any, **settings: Any) -> str:
            return super()._decode(*arguments, **settings).upper()

    plain.__class__ = Shouting
    assert SkippingDecoder(plain).decode(plain("a")["input_ids"]) == "A"
