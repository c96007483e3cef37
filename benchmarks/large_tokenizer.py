"""A tokenizer with a vocabulary as large models have it, trained on this environment's Python sources."""

import importlib.util
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def train_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level vocabulary of about `size` tokens, as large models have them."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    sources = Path(importlib.util.find_spec("torch").origin or "").parents[1].rglob("*.py")  # type: ignore[union-attr]
    trained.train([str(path) for path in sources], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<end>")  # type: ignore[no-untyped-call]
