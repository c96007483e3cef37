"""torch's variable-length attention by its definition, a sequence at a time, for machines without its kernel."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def varlen_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
    num_splits: int,
) -> torch.Tensor:
    """`[tokens, heads, dim]` over pages `[pages, page_size, kv_heads, dim]`; causal, the last query sees all keys."""
    assert enable_gqa
    assert num_splits == 1  # torch's own is wrong with more
    assert window_size[1] == 0 or (window_size == (-1, -1) and max_q == 1)
    assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == block_table.dtype == torch.int32
    assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1 == len(block_table) + 1
    assert int(seqused_k.max()) <= max_k <= block_table.shape[1] * key.shape[1]
    assert torch.equal(cu_seq_k.diff(), seqused_k)
    out = torch.empty_like(query)
    for number, table in enumerate(block_table.long()):
        first, last, length = int(cu_seq_q[number]), int(cu_seq_q[number + 1]), int(seqused_k[number])
        assert last - first <= max_q
        keys, values = (pages[table].flatten(0, 1)[:length].transpose(0, 1) for pages in (key, value))
        repeats = query.shape[1] // key.shape[2]
        places = torch.arange(length - (last - first), length)[:, None]
        mask = torch.arange(length) <= places
        if window_size[0] >= 0:
            mask &= torch.arange(length) >= places - window_size[0]
        out[first:last] = scaled_dot_product_attention(
            query[first:last].transpose(0, 1),
            keys.repeat_interleave(repeats, dim=0),
            values.repeat_interleave(repeats, dim=0),
            attn_mask=mask,
            scale=scale,
        ).transpose(0, 1)
    return out
