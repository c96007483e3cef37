"""A model's forward pass, behind one call: transformers' own, or a faster one that computes the same. Engine thread."""

import logging
from typing import Any, Protocol

import torch

from llm.attention import AttentionBatch, HeadRule
from llm.cache_attention import DecodeAttention
from llm.cuda_kernels import CudaKernels
from llm.cuda_operations import CudaOperations
from llm.fused_decoder import FusedDecoder, has_known_shape
from llm.kv_cache import KVCache
from llm.linear import Pack, pack_modules
from llm.operations import Operations, TorchOperations
from llm.probe import Probe

log = logging.getLogger(__name__)

# How far the fused pass may be from the model's own, relative to the logits' length: rounding in another order gives
# 1e-6 in float32 and up to 1e-2 in bfloat16, another formula far more.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_NUM_COMPARED_TOKENS = 8


class Decoder(Protocol):
    """Computes a pass: all sequences in one row of tokens, told apart by `batch` alone."""

    def __call__(
        self, token_ids: torch.Tensor, positions: torch.Tensor, sampled: torch.Tensor, batch: AttentionBatch
    ) -> torch.Tensor:
        """`[tokens]` ids and positions in; the logits `[len(sampled), vocabulary]` of the rows `sampled` out."""


class TransformersDecoder:
    """The model's own code."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(
        self, token_ids: torch.Tensor, positions: torch.Tensor, sampled: torch.Tensor, batch: AttentionBatch
    ) -> torch.Tensor:
        """See `Decoder`."""
        output = self._model(
            input_ids=token_ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=sampled,
            batch=batch,
        )
        logits: torch.Tensor = output.logits[0]
        return logits


@torch.inference_mode()
def build_decoder(model: Any, rules: dict[int, HeadRule], pack: Pack, kernels: CudaKernels | None = None) -> Decoder:
    """The fastest pass for a model; its linear layers are packed, after which the model itself is of no more use."""
    own = TransformersDecoder(model)
    if has_known_shape(model):
        fused = FusedDecoder(model, rules, _choose_operations(model.device, model.dtype, kernels))
        if _agree(fused, own, model):
            fused.pack(pack)
            return fused
    pack_modules(model, pack)
    return own


def compile_decoder(decoder: Decoder, cache: KVCache, attention: DecodeAttention | None, max_rows: int) -> Decoder:
    """The same with programs for passes in which every sequence adds one token, where it is made of compiled steps."""
    if attention is None or not isinstance(decoder, FusedDecoder):
        return decoder
    from llm.compiled_decoder import CompiledDecoder  # compiles, as `attention` did
    from llm.cpu_attention import CpuDecodeAttention

    if not isinstance(attention, CpuDecodeAttention) or not CompiledDecoder.suits(decoder):
        return decoder
    return CompiledDecoder(decoder, cache, attention, max_rows)


def _choose_operations(device: torch.device, dtype: torch.dtype, kernels: CudaKernels | None) -> Operations:
    """The fastest that were measured for this device."""
    if kernels is not None:
        return CudaOperations(kernels)
    if device.type == "cpu" and dtype == torch.float32:
        from llm.cpu_operations import CpuOperations  # compiles, which nothing else needs

        return CpuOperations()
    return TorchOperations()


def _agree(fused: Decoder, own: Decoder, model: Any) -> bool:
    positions = torch.arange(_NUM_COMPARED_TOKENS, device=model.device)
    token_ids = positions * 7 % model.config.get_text_config(decoder=True).vocab_size
    expected = own(token_ids, positions, positions, Probe()).float()
    try:
        error = float((fused(token_ids, positions, positions, Probe()).float() - expected).norm() / expected.norm())
    except RuntimeError as mismatch:  # shapes that do not fit
        log.info("%s keeps its own forward pass: %s", type(model).__name__, mismatch)
        return False
    if error >= _TOLERANCE[model.dtype]:
        log.info("%s keeps its own forward pass: the fused one differs by %.2g", type(model).__name__, error)
        return False
    return True
