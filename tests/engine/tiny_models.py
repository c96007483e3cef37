"""Random-weight models of a few kilobytes, one per family, saved as folders with a byte-level tokenizer."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 300
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
_MIXTURE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_WINDOW: dict[str, Any] = {"sliding_window": 12}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.3,
    "bos_token_id": 256,
    "eos_token_id": 257,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _COMMON,
    "mistral": {**_COMMON, **_WINDOW},
    "mixtral": {**_COMMON, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": _COMMON,
    "qwen3": _COMMON,
    "qwen3_moe": {**_COMMON, **_MIXTURE, "num_experts": 4},
    "gemma2": {**_COMMON, **_WINDOW, "attn_logit_softcapping": 20.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_COMMON, **_WINDOW, "query_pre_attn_scalar": 8},
    "phi3": {**_COMMON, "rope_scaling": None},
    "gpt2": _GPT2,
    "gpt_neox": {**_COMMON, "num_key_value_heads": 4},
    "gpt_oss": {**_COMMON, **_WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": _COMMON,
    "granite": _COMMON,
    "smollm3": _COMMON,
}


def build_model(family: str) -> Any:
    """A model of `family` with weights that depend on nothing but its name."""
    torch.manual_seed(sum(family.encode()))
    config = AutoConfig.for_model(family, **FAMILIES[family])
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_model(family: str, folder: Path) -> Path:
    """Write the model and its tokenizer to `folder`, as `from_pretrained` reads them."""
    build_model(family).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A GPT-2 style byte-level tokenizer without merges: one token per byte, and two special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>")
