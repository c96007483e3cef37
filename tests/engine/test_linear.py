"""Each form of a linear layer computes the same, for any number of rows, and the CPU's maker decides which is used."""

import pytest
import torch
from llm.linear import MklLinear, OneDnnLinear, Pack, choose_pack
from llm.tiled_linear import TiledLinear
from torch.nn.functional import linear


@pytest.mark.parametrize("form", [MklLinear, OneDnnLinear, TiledLinear])
@pytest.mark.parametrize("num_rows", [0, 1, 3, 64, 65, 300])
@pytest.mark.parametrize("has_bias", [False, True])
@torch.inference_mode()
def test_a_packed_layer_computes_what_the_plain_one_does(form: Pack, num_rows: int, has_bias: bool):
    if form is MklLinear and not torch._C.has_mkl:
        pytest.skip("this torch has no MKL")
    weight, bias = torch.randn(7, 5), torch.randn(7) if has_bias else None
    rows = torch.randn(num_rows, 10)[:, ::2]  # rows that do not lie side by side, as a part of a joined product does
    torch.testing.assert_close(form(weight, bias)(rows), linear(rows, weight, bias))


@pytest.mark.skipif(not torch._C.has_mkl, reason="this torch has no MKL")
@pytest.mark.parametrize(("cpu", "form"), [("Intel(R) Xeon(R) Processor", MklLinear), ("AMD EPYC", TiledLinear)])
def test_mkl_is_left_to_intels_cpus(monkeypatch: pytest.MonkeyPatch, cpu: str, form: Pack):
    """On an AMD EPYC its layout took two and a half times as long as oneDNN's at 8 rows, and five times as tiles."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": cpu, "avx2": True})
    assert choose_pack(torch.device("cpu"), torch.float32, "none") is form


SIZES = [(1, 1), (31, 7), (33, 2048), (65, 2049), (96, 4500)]


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@torch.inference_mode()
def test_tiles_give_a_row_the_same_bits_whatever_is_beside_it(outputs: int, inputs: int):
    """oneDNN's products of one row and of eight differ in the last bits, so that a tie could fall either way."""
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    layer, rows = TiledLinear(weight, bias), torch.randn(29, inputs)
    together = layer(rows)
    exact = linear(rows.double(), weight.double(), bias.double())
    torch.testing.assert_close(together.double(), exact, rtol=1e-4, atol=1e-6 * inputs)
    for first, last in [(0, 1), (1, 3), (3, 6), (6, 10), (10, 29)]:
        assert torch.equal(layer(rows[first:last]), together[first:last])


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@torch.inference_mode()
def test_bfloat16_numbers_take_half_the_memory_and_give_the_same_bits(outputs: int, inputs: int):
    weight, bias = torch.randn(outputs + 1, inputs).bfloat16().float(), torch.randn(outputs + 1)
    weight[0, inputs // 2] = -torch.inf
    short = TiledLinear(weight, bias)
    weight[-1, -1] = 1 + 2**-20  # of the last output alone, which is not compared
    long = TiledLinear(weight, bias)
    assert short._tiles.nbytes * 2 == long._tiles.nbytes
    rows = torch.randn(29, inputs)
    for first, last in [(0, 1), (1, 3), (3, 6), (6, 29)]:
        both = [layer(rows[first:last])[:, :-1] for layer in (short, long)]
        assert torch.equal(*both)
        expected = linear(rows[first:last].double(), weight.double(), bias.double())[:, :-1]
        torch.testing.assert_close(both[0].double(), expected, rtol=1e-4, atol=1e-6 * inputs)


@torch.inference_mode()
def test_a_tile_of_zeros_and_infinities_computes_what_numbers_do():
    weight = torch.randn(40, 6)
    weight[3], weight[4, 2], weight[5, 1] = 0.0, torch.inf, torch.nan
    rows = torch.randn(2, 6).abs()
    torch.testing.assert_close(TiledLinear(weight, None)(rows), linear(rows, weight), equal_nan=True)


@torch.inference_mode()
def test_a_packed_layer_of_bfloat16_is_as_near_as_the_plain_one():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this CPU")
    weight, bias, rows = torch.randn(70, 50).bfloat16(), torch.randn(70).bfloat16(), torch.randn(9, 50).bfloat16()
    product = choose_pack(torch.device("cpu"), torch.bfloat16, "none")(weight, bias)(rows)
    assert product.dtype == torch.bfloat16
    torch.testing.assert_close(
        product.float(), linear(rows.float(), weight.float(), bias.float()), rtol=1e-2, atol=5e-2
    )
