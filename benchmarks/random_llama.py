"""Llama-shaped models with random weights, saved as folders that every engine can load."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.large_tokenizer import train_tokenizer

# As Llama 3.2 1B: 1.24 billion parameters, 2.5 GB in bfloat16.
ONE_BILLION = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
# To see on any machine that a benchmark runs.
TINY = {
    **ONE_BILLION,
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"


def save(folder: Path, shape: dict[str, int], device: torch.device) -> int:
    """Write model and tokenizer to `folder`; returns the bytes of its weights."""
    tokenizer = train_tokenizer(shape["vocab_size"])
    tokenizer.chat_template = _CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    # No token ends an answer: all are of the length asked for.
    config = LlamaConfig(**shape, bos_token_id=None, eos_token_id=None, pad_token_id=None)  # type: ignore[arg-type]
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)  # type: ignore[arg-type]
    model.save_pretrained(folder)
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
