"""One pass's attention over the paged KV cache in a single kernel per layer: torch's variable-length flash attention.

CUDA only. It takes chunks and single tokens alike, and reads the cache's blocks where they lie. Engine thread.
"""

import inspect
import logging
from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from llm.attention import HeadRule
from llm.kv_cache import KVCache, LayerShape
from llm.pass_inputs import PassInputs

log = logging.getLogger(__name__)

# The flash attention of Ampere GPUs takes pages of a multiple of 256 tokens.
VARLEN_BLOCK_SIZE = 256
_MAX_HEAD_DIM = 256
# More than one leaves the rows of all sequences but the first unwritten (torch 2.13, pytorch issue 194167); with one, a
# row's numbers are also the same whatever else is in the pass.
_NUM_SPLITS = 1

# As `torch.nn.attention.varlen.varlen_attn`.
VarlenAttention = Callable[..., torch.Tensor]


class VarlenBatch:
    """An `llm.attention.AttentionBatch`.

    Args:
        attend: the kernel.
    """

    def __init__(self, cache: KVCache, inputs: PassInputs, attend: VarlenAttention) -> None:
        self._cache = cache
        self._inputs = inputs
        self._attend = attend

    def attend(self, layer: int, query: torch.Tensor, key_value: torch.Tensor, rule: HeadRule) -> torch.Tensor:
        """See `AttentionBatch`."""
        inputs = self._inputs
        self._cache.write(layer, inputs.slots, key_value)
        keys, values = rule.shape.split(self._cache.layers[layer])
        return self._attend(
            query,
            keys,
            values,
            inputs.query_starts,
            inputs.key_starts,
            inputs.longest_chunk,
            inputs.longest,
            scale=rule.scale,
            window_size=_window(rule.window),
            enable_gqa=True,
            seqused_k=inputs.ends,
            block_table=inputs.block_table,
            num_splits=_NUM_SPLITS,
        )


def _window(window: int | None) -> tuple[int, int]:
    """Tokens before and after its own that a query sees; -1: all."""
    return -1 if window is None else window - 1, 0


def find_varlen_attention(
    rules: Iterable[HeadRule], dtype: torch.dtype, device: torch.device
) -> VarlenAttention | None:
    """The kernel, if it can compute what these layers ask for on this device, and was seen to; else None."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    if torch.cuda.get_device_capability(device) < (8, 0) or not all(_is_plain(rule) for rule in rules):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if "block_table" not in inspect.signature(varlen_attn).parameters:  # before torch 2.12
        return None
    attend: VarlenAttention = varlen_attn  # type: ignore[assignment]  # a pair only where one asks for it
    ways = partial(_attend_jointly, attend), attend
    found = next((way for way in ways if computes_attention(way, dtype, device)), None)
    if found is None:
        log.warning("slower operations take the place of torch's paged attention")
    return found


def _attend_jointly(
    attend: VarlenAttention,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    longest_chunk: int,
    longest: int,
    *,
    window_size: tuple[int, int],
    **others: Any,
) -> torch.Tensor:
    """As `attend`; where every chunk is one token, query heads that share their keys are computed together.

    The kernel does so only if it is not told to stop at a query's own place, behind which such a chunk has no key.
    """
    if longest_chunk == 1 and window_size == (-1, 0):
        window_size = (-1, -1)
    return attend(
        query, keys, values, query_starts, key_starts, longest_chunk, longest, window_size=window_size, **others
    )


def _is_plain(rule: HeadRule) -> bool:
    shape = rule.shape
    has_plain_scores = rule.softcap is None and rule.sinks is None
    return has_plain_scores and shape.key_dim == shape.value_dim <= _MAX_HEAD_DIM and shape.key_dim % 8 == 0


def computes_attention(attend: VarlenAttention, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a kernel gives what the definition gives, for every kind of pass."""
    size = VARLEN_BLOCK_SIZE
    # A chunk behind a cached beginning beside a single token, and single tokens alone.
    passes = [
        (spans, window)
        for spans in ([(size - 3, size + 5), (40, 41)], [(size, size + 1), (40, 41)])
        for window in (100, None)
    ]
    try:
        worst = max(_error(attend, spans, window, dtype, device) for spans, window in passes)
    except RuntimeError as error:
        log.warning("torch's paged attention fails here: %s", error)
        return False
    if not worst <= 0.05:
        log.warning("torch's paged attention is off by %.2g here", worst)
    return worst <= 0.05


@torch.inference_mode()
def _error(
    attend: VarlenAttention, spans: list[tuple[int, int]], window: int | None, dtype: torch.dtype, device: torch.device
) -> float:
    """The largest deviation over two sequences, whose queries are at `spans`."""
    heads, kv_heads, dim, size = 4, 2, 64, VARLEN_BLOCK_SIZE
    tables = [[2, 0], [1, 3]]
    lengths = [end - start for start, end in spans]
    generator = torch.Generator().manual_seed(1)
    pages = torch.randn(4, size, 2 * kv_heads * dim, generator=generator).to(device, dtype)
    query = torch.randn(sum(lengths), heads, dim, generator=generator).to(device, dtype)
    keys, values = LayerShape(kv_heads, dim, dim).split(pages)
    int32 = partial(torch.tensor, dtype=torch.int32, device=device)
    ends = [end for _, end in spans]
    found = attend(
        query,
        keys,
        values,
        int32([0, *accumulate(lengths)]),
        int32([0, *accumulate(ends)]),
        max(lengths),
        2 * size,
        scale=0.2,
        window_size=_window(window),
        enable_gqa=True,
        seqused_k=int32(ends),
        block_table=int32(tables),
        num_splits=_NUM_SPLITS,
    ).float()
    offset, worst = 0, 0.0
    for table, (start, end) in zip(tables, spans, strict=True):
        mine = query[offset : offset + end - start].transpose(0, 1).float()
        key, value = (
            part[table].flatten(0, 1)[:end].transpose(0, 1).repeat_interleave(heads // kv_heads, 0).float()
            for part in (keys, values)
        )
        places, seen = torch.arange(start, end, device=device)[:, None], torch.arange(end, device=device)
        mask = (seen <= places) & (seen > places - (window or end))
        wanted = scaled_dot_product_attention(mine, key, value, attn_mask=mask, scale=0.2).transpose(0, 1)
        # Of what was not written, the difference may be no number, which max() would pass over.
        worst = max(worst, float((found[offset : offset + end - start] - wanted).abs().nan_to_num(torch.inf).max()))
        offset += end - start
    return worst
