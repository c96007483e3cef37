"""Every token's bytes, in both ways of writing them, join to the text's bytes."""

import pytest
from llm.token_bytes import TokenBytes
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.engine.tiny_models import byte_tokenizer


@pytest.mark.parametrize("text", ["plain words", "née \u20ac", "\U0001f600", "\n\t\x00", "\xa0\xad"])
def test_the_bytes_of_a_byte_level_vocabulary_join_to_the_text(text: str):
    tokenizer = byte_tokenizer()
    bytes_of = TokenBytes(tokenizer)
    assert b"".join(map(bytes_of, tokenizer(text)["input_ids"])) == text.encode()


def test_sentencepiece_writes_bytes_by_name_and_spaces_as_blocks():
    vocabulary = {"<unk>": 0, "\u2581caf": 1, "<0xC3>": 2, "<0xA9>": 3, "</s>": 4}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_of = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>"))
    assert b"".join(map(bytes_of, [1, 2, 3])).decode() == " caf\u00e9"
    assert bytes_of(4) == b"</s>"


def test_special_tokens_stand_for_their_name_and_unknown_ids_for_nothing():
    bytes_of = TokenBytes(byte_tokenizer())
    assert bytes_of(257) == b"<|end|>"
    assert bytes_of(10_000) == b""
