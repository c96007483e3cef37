"""A transformers tokenizer whose tokens are single bytes, and a walker that draws any token that is allowed."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from llm.request import TokenConstraint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END = 256
VOCABULARY = 300  # wider than the tokenizer, as models' logits are


def bytewise_tokenizer(special: Sequence[str] = (), plain: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Tokens 0 to 255 are bytes, 256 ends, from 257 on come special tokens and plain ones of several letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens(["<end>", *special])
    bytewise.add_tokens(list(plain))
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>")


def allowed(constraint: TokenConstraint) -> list[int]:
    words = np.zeros(-(-VOCABULARY // 32), dtype=np.int32)
    constraint.fill(words)
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


def walk(constraint: TokenConstraint, tokenizer: Any, seed: int, limit: int = 2000) -> str | None:
    """The text of a random way through the grammar, special tokens shown; None if it is longer than the limit."""
    chance, token_ids = random.Random(seed), []
    while len(token_ids) < limit:
        choices = allowed(constraint)
        assert choices, "a dead end"
        token_id = END if END in choices else chance.choice(choices)
        assert token_id < len(tokenizer)
        constraint.advance(token_id)
        if token_id == END:
            return tokenizer.decode(token_ids)
        token_ids.append(token_id)
    return None
