"""Each form of a linear layer computes the same, for any number of rows, and the CPU's maker decides which is used."""

import pytest
import torch
from llm.linear import MklLinear, OneDnnLinear, Pack, choose_pack
from torch.nn.functional import linear


@pytest.mark.parametrize("form", [MklLinear, OneDnnLinear])
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
@pytest.mark.parametrize(("cpu", "form"), [("Intel(R) Xeon(R) Processor", MklLinear), ("AMD EPYC", OneDnnLinear)])
def test_mkl_is_left_to_intels_cpus(monkeypatch: pytest.MonkeyPatch, cpu: str, form: Pack):
    """On an AMD EPYC its layout took two and a half times as long as oneDNN's at 8 rows."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": cpu})
    assert choose_pack(torch.device("cpu"), torch.float32, "none") is form


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
