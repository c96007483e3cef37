"""Which pass a model gets, and that it is the model's own."""

from typing import Any

import pytest
import torch
from llm.attention import IMPLEMENTATION
from llm.decoder import TransformersDecoder, build_decoder
from llm.fused_decoder import FusedDecoder
from llm.linear import choose_pack, plain_linear
from llm.probe import Probe, probe_layers
from llm.tiled_int8_linear import TiledInt8Linear
from transformers import AutoConfig, AutoModelForCausalLM

from tests.engine.tiny_models import FAMILIES

CPU = torch.device("cpu")
LLAMA_SHAPED = {"llama", "mistral", "qwen2", "qwen3", "granite", "smollm3"}


def model_of(family: str, **changes: object) -> Any:
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **{**FAMILIES[family], **changes})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=IMPLEMENTATION).eval()


def logits(decoder: Any) -> torch.Tensor:
    with torch.inference_mode():
        positions = torch.arange(20)
        result: torch.Tensor = decoder(positions * 11 % 300, positions, positions[-4:], Probe())
    return result


def decoder_of(model: Any, pack: Any = plain_linear) -> Any:
    return build_decoder(model, probe_layers(model), pack)


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_shaped_families_are_fused_and_the_others_keep_their_own_pass(family: str):
    assert isinstance(decoder_of(model_of(family)), FusedDecoder) == (family in LLAMA_SHAPED)


@pytest.mark.parametrize("pack", [plain_linear, choose_pack(CPU, torch.float32, "none")], ids=["plain", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_pass_computes_the_models_own_logits(family: str, pack: Any):
    model = model_of(family)
    wanted = logits(TransformersDecoder(model))
    assert torch.allclose(logits(decoder_of(model, pack)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("biases", [{"attention_bias": True}, {"mlp_bias": True}])
def test_biases_are_joined_with_their_weights(biases: dict[str, bool]):
    model = model_of("llama", **biases)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    wanted = logits(TransformersDecoder(model))
    decoder = decoder_of(model, choose_pack(CPU, torch.float32, "none"))
    assert isinstance(decoder, FusedDecoder)
    assert torch.allclose(logits(decoder), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("granite", {"residual_multiplier": 0.5}),
        ("granite", {"logits_scaling": 3.0}),
    ],
)
def test_a_model_of_the_same_parts_that_computes_otherwise_keeps_its_own_pass(family: str, changes: dict[str, Any]):
    model = model_of(family, **changes)
    wanted = logits(TransformersDecoder(model))
    decoder = decoder_of(model)
    assert isinstance(decoder, TransformersDecoder)
    assert torch.allclose(logits(decoder), wanted, rtol=1e-4, atol=1e-4)


def test_rows_of_8_bits_do_not_depend_on_the_rows_beside_them():
    """torch's dynamic quantisation has one scale for all rows: beside a row of large numbers, a small one was lost."""
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(48, 32, generator=generator), torch.randn(48, generator=generator)
    rows = torch.randn(5, 32, generator=generator) * torch.tensor([1.0, 10.0, 1e-3, 3.0, 1e4])[:, None]
    linear = TiledInt8Linear(weight, bias)
    together = linear(rows)
    for row, result in zip(rows, together, strict=True):
        assert torch.equal(linear(row[None])[0], result)
        wanted = weight @ row + bias
        assert (result - wanted).norm() < 0.02 * (weight @ row).norm()


def test_a_row_and_an_output_of_zeros_stay_zeros_in_8_bits():
    weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(2))
    weight[7] = 0.0
    result = TiledInt8Linear(weight, None)(torch.cat([torch.zeros(1, 32), torch.ones(1, 32)]))
    assert torch.equal(result[0], torch.zeros(48))
    assert result[1, 7] == 0.0


def in_8_bits(weight: torch.Tensor, bias: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """What weights and rows give that are rounded to 127 steps each, in float64."""
    of_weights, of_rows = (numbers.double().abs().amax(dim=1, keepdim=True) / 127 for numbers in (weight, rows))
    product = (rows / of_rows).round() @ (weight / of_weights).round().T * of_rows * of_weights.T
    return (product if bias is None else product + bias).float()


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (31, 7), (64, 64), (65, 130), (100, 2051)])
@pytest.mark.parametrize("has_bias", [False, True])
@torch.inference_mode()
def test_tiles_of_8_bits_compute_what_rounded_numbers_give(outputs: int, inputs: int, has_bias: bool):
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if has_bias else None
    rows = torch.randn(29, 2 * inputs)[:, ::2] * torch.logspace(-3, 3, 29)[:, None]
    ours, wanted = TiledInt8Linear(weight, bias)(rows), in_8_bits(weight, bias, rows)
    # A number that lies between two integers may be rounded to either.
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=0.02 * float(wanted.abs().max()) / inputs**0.5)
    for first, last in [(0, 1), (1, 3), (3, 6), (6, 10), (10, 29)]:
        assert torch.equal(TiledInt8Linear(weight, bias)(rows[first:last]), ours[first:last])


def test_a_row_without_numbers_stays_without_in_8_bits_and_alone():
    rows = torch.ones(3, 8)
    rows[0, 3], rows[2, 1] = torch.nan, torch.inf
    result = TiledInt8Linear(torch.randn(32, 8), None)(rows)
    assert result[0].isnan().all()
    assert result[1].isfinite().all()
    assert not result[2].isfinite().any()


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_8_bits_are_close_to_the_models_own_logits(family: str):
    model = model_of(family)
    wanted = logits(TransformersDecoder(model))
    got = logits(decoder_of(model, choose_pack(CPU, torch.float32, "int8")))
    assert 0 < (got - wanted).norm() < 0.1 * wanted.norm()
