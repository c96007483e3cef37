"""A program of a pass gives what the fused pass gives, to the last bit, and leaves the same in the cache."""

from typing import Any

import pytest
import torch
from llm.cache_attention import find_cache_attention
from llm.compiled_decoder import CompiledDecoder
from llm.decoder import build_decoder, compile_decoder
from llm.fused_decoder import FusedDecoder
from llm.kv_cache import KVCache
from llm.linear import OneDnnLinear, plain_linear
from llm.paged_batch import Extent, PagedBatch
from llm.probe import probe_layers
from llm.tiled_int8_linear import TiledInt8Linear
from llm.tiled_linear import TiledLinear

from tests.engine.test_decoder import model_of

CPU = torch.device("cpu")
WHOLE_TILES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32, "num_attention_heads": 4}
MAX_ROWS = 9


class Engine:
    """A model with a cache, whose first sequences are `lengths` long."""

    def __init__(self, model: Any, lengths: list[int], pack: Any = TiledLinear, dtype: Any = torch.float32) -> None:
        rules = probe_layers(model)
        self.layers = {number: rule.shape for number, rule in rules.items()}
        self.cache = KVCache(self.layers, 64, dtype=dtype, device=CPU)
        self.attention = find_cache_attention(rules.values(), self.cache, torch.float32)
        self.fused = build_decoder(model, rules, pack)
        self.compiled = compile_decoder(self.fused, self.cache, self.attention.decode, MAX_ROWS)
        self.lengths = lengths
        self.tables = [list(range(1 + 6 * row, 7 + 6 * row)) for row in range(len(lengths))]
        prompts = [Extent(0, length, table) for length, table in zip(lengths, self.tables, strict=True)]
        self.compute(self.fused, prompts)

    @torch.inference_mode()
    def compute(self, decoder: Any, extents: list[Extent]) -> torch.Tensor:
        positions = torch.cat([torch.arange(extent.start, extent.end) for extent in extents])
        last = torch.tensor([extent.num_tokens for extent in extents]).cumsum(0) - 1
        batch = PagedBatch(self.cache, extents, CPU, self.attention)
        result: torch.Tensor = decoder(positions * 7 % 300, positions, last, batch)
        return result

    def step(self, decoder: Any, rows: list[int]) -> torch.Tensor:
        return self.compute(decoder, [Extent(self.lengths[row], 1, self.tables[row]) for row in rows])


@pytest.mark.parametrize(
    ("pack", "dtype"), [(TiledLinear, torch.float32), (TiledLinear, torch.bfloat16), (TiledInt8Linear, torch.bfloat16)]
)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
def test_a_program_gives_the_fused_passs_logits_to_the_last_bit(family: str, pack: Any, dtype: torch.dtype):
    engine = Engine(model_of(family, **WHOLE_TILES), [3, 31, 32, 33, 70, 1, 100, 5, 64], pack, dtype)
    assert isinstance(engine.compiled, CompiledDecoder)
    for rows in ([0], [4], [1, 2], [6, 0, 3], list(range(9))):
        wanted = engine.step(engine.fused, rows)
        kept = {layer: tensor.clone() for layer, tensor in engine.cache.layers.items()}
        got = engine.step(engine.compiled, rows)
        assert torch.equal(got, wanted)
        assert all(torch.equal(engine.cache.layers[layer], tensor) for layer, tensor in kept.items())


def test_a_cache_of_16_bits_gives_the_same_however_a_prompt_is_cut():
    """A chunk sees its own keys rounded, as the next one will, and not as they were computed."""
    engine = Engine(model_of("llama", **WHOLE_TILES), [5], dtype=torch.bfloat16)
    whole = engine.compute(engine.fused, [Extent(0, 40, engine.tables[0])]).clone()
    engine.compute(engine.fused, [Extent(0, 17, engine.tables[0])])
    assert torch.allclose(engine.compute(engine.fused, [Extent(17, 23, engine.tables[0])]), whole, rtol=0, atol=1e-5)


def test_a_row_gets_the_same_bits_whatever_is_beside_it():
    engine = Engine(model_of("llama", **WHOLE_TILES), [40, 3, 70, 12, 1, 9, 33, 20, 50])
    together = engine.step(engine.compiled, list(range(9))).clone()
    for row in range(9):
        assert torch.equal(engine.step(engine.compiled, [row])[0], together[row])


def test_a_pass_of_other_rows_is_left_to_the_fused_one():
    engine = Engine(model_of("llama", **WHOLE_TILES), [40, 3])
    chunk_and_token = [Extent(40, 5, engine.tables[0]), Extent(3, 1, engine.tables[1])]
    assert torch.equal(engine.compute(engine.compiled, chunk_and_token), engine.compute(engine.fused, chunk_and_token))
    many = [Extent(3, 1, engine.tables[1])] * (MAX_ROWS + 1)
    assert torch.equal(engine.compute(engine.compiled, many), engine.compute(engine.fused, many))


@pytest.mark.parametrize(
    ("family", "changes", "pack"),
    [
        ("gemma2", WHOLE_TILES, TiledLinear),
        ("llama", {**WHOLE_TILES, "mlp_bias": True}, TiledLinear),
        ("llama", {**WHOLE_TILES, "attention_bias": True}, TiledLinear),
        ("llama", {**WHOLE_TILES, "hidden_act": "gelu"}, TiledLinear),
        ("llama", {**WHOLE_TILES, "intermediate_size": 100}, TiledLinear),
        ("llama", WHOLE_TILES, OneDnnLinear),
        ("llama", WHOLE_TILES, plain_linear),
    ],
)
def test_what_cannot_be_a_program_keeps_its_pass(family: str, changes: dict[str, Any], pack: Any):
    engine = Engine(model_of(family, **changes), [5, 20], pack)
    assert engine.compiled is engine.fused
    assert isinstance(engine.fused, FusedDecoder) == (family == "llama")
    assert engine.step(engine.compiled, [0, 1]).isfinite().all()
