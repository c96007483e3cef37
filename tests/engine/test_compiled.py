"""The compiled loops compute what torch does, in any number of threads, and what is compiled finds its place."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm.attention import HeadRule, attention
from llm.cache_attention import find_cache_attention
from llm.compiled import ParallelLoop, take
from llm.cpu_attention import CpuDecodeAttention
from llm.cpu_operations import CpuOperations
from llm.intrinsics import address, exp, num_threads, thread_number
from llm.kv_cache import KVCache, LayerShape
from llm.operations import Norm, TorchOperations
from llm.paged_batch import Extent, PagedBatch
from numba import carray

ROOT = Path(__file__).resolve().parents[2]
BLOCK_SIZE = 32

_each_window = pytest.mark.parametrize("window", [None, 1, 20, 32, 40])
_each_shape = pytest.mark.parametrize(
    ("heads", "kv_heads", "key_dim", "value_dim"), [(9, 3, 64, 64), (4, 4, 16, 16), (8, 1, 24, 40)]
)
_each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
@torch.inference_mode()
def test_operations_compute_what_torchs_do(rows: int):
    ours, theirs = CpuOperations(), TorchOperations()
    hidden, weight = torch.randn(rows, 576) * 10, torch.randn(576)
    norm = Norm(weight, 1e-5)
    torch.testing.assert_close(ours.normalise(hidden, norm), theirs.normalise(hidden, norm))
    heads = Norm(weight[:64], 1e-5)
    ours.normalise_heads(normed := hidden.clone(), 2, 5, heads)
    theirs.normalise_heads(hidden, 2, 5, heads)
    torch.testing.assert_close(normed, hidden)
    joined = torch.randn(rows, 2 * 100) * 20
    for activation in (torch.nn.SiLU(), torch.nn.GELU()):
        torch.testing.assert_close(ours.gate(joined.clone(), activation), theirs.gate(joined.clone(), activation))
    heads, cos, sin = torch.randn(rows, 5 * 64), torch.randn(rows, 64), torch.randn(rows, 64)
    rotated = heads.clone()
    theirs.rotate(rotated, 3, cos, sin)
    ours.rotate(heads, 3, cos, sin)
    torch.testing.assert_close(heads, rotated)


@torch.inference_mode()
def test_operations_keep_infinities_and_nan_in_their_rows():
    rows = torch.ones(3, 64)
    rows[0, 5], rows[1, 5] = torch.inf, torch.nan
    normed = CpuOperations().normalise(rows, Norm(torch.ones(64), 1e-5))
    assert torch.equal(normed.isnan().any(dim=1), torch.tensor([True, True, False]))
    joined = torch.tensor([[-200.0, 200.0, torch.inf, torch.nan] + [2.0] * 4])
    gated = CpuOperations().gate(joined, torch.nn.SiLU())
    torch.testing.assert_close(gated, torch.tensor([[0.0, 400.0, torch.inf, torch.nan]]), equal_nan=True)


def test_the_exponential_is_exact_to_two_last_places():
    numbers = np.concatenate([np.linspace(-87, 88, 100_001), np.linspace(-1e-3, 1e-3, 1001)]).astype(np.float32)
    wanted = np.exp(numbers.astype(np.float64))
    got = np.array([exp(number) for number in numbers])
    assert np.max(np.abs(got - wanted) / np.spacing(wanted.astype(np.float32))) <= 2


@pytest.mark.parametrize("lengths", [[1], [33], [300], [5, 64, 65], [1, 2, 3, 40, 500, 31, 32]])
@_each_window
@_each_shape
@_each_dtype
@torch.inference_mode()
def test_attention_over_the_cache_computes_what_torchs_does(
    lengths: list[int], window: int | None, heads: int, kv_heads: int, key_dim: int, value_dim: int, dtype: torch.dtype
):
    """What lies in the blocks behind a sequence's end, or before its window, is not looked at."""
    rule = HeadRule(LayerShape(kv_heads, key_dim, value_dim), 0.3, window, None, None)
    width, num_blocks = max(-(-length // BLOCK_SIZE) for length in lengths), 40
    cache = torch.full((num_blocks, BLOCK_SIZE, rule.shape.width), torch.nan, dtype=dtype)
    free = iter(torch.randperm(num_blocks - 1) + 1)
    tables = torch.zeros(len(lengths), width, dtype=torch.long)
    query = torch.randn(len(lengths), heads + 2, key_dim)[:, :heads]
    wanted = []
    for row, length in enumerate(lengths):
        seen = torch.randn(length, rule.shape.width).to(dtype).float()
        for position in range(length):
            if position % BLOCK_SIZE == 0:
                tables[row, position // BLOCK_SIZE] = next(free)
            cache[tables[row, position // BLOCK_SIZE], position % BLOCK_SIZE] = seen[position]
        keys, values = rule.shape.split(seen[-window:] if window else seen)
        grouped = query[row].view(kv_heads, -1, 1, key_dim).transpose(1, 2)[:, 0]
        result = attention(
            grouped[None], keys.transpose(0, 1)[None], values.transpose(0, 1)[None], torch.zeros(1, 1, 1, 1), rule
        )
        wanted.append(result.reshape(heads, value_dim))
    attend = CpuDecodeAttention([rule], BLOCK_SIZE, dtype)
    torch.testing.assert_close(attend(query, cache, tables, torch.tensor(lengths), rule), torch.stack(wanted))


# A pass's chunks: where each begins in its sequence, and how many tokens it has; those of one are decodes.
_CHUNKS = [[(0, 1), (0, 2)], [(0, 33)], [(31, 2), (300, 1), (5, 70)], [(64, 32), (0, 45), (9, 1), (95, 3), (250, 20)]]


@pytest.mark.parametrize("chunks", _CHUNKS)
@_each_window
@_each_shape
@_each_dtype
@torch.inference_mode()
def test_chunks_attend_over_the_cache_as_torch_does(
    chunks: list[tuple[int, int]],
    window: int | None,
    heads: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    dtype: torch.dtype,
):
    """What lies in the blocks behind a sequence's end is not looked at."""
    rule = HeadRule(LayerShape(kv_heads, key_dim, value_dim), 0.3, window, None, None)
    cache = KVCache({0: rule.shape}, 40, dtype=dtype, device=torch.device("cpu"))
    free = iter((torch.randperm(39) + 1).tolist())
    extents = [
        Extent(start, number, [next(free) for _ in range(-(-(start + number) // BLOCK_SIZE))])
        for start, number in chunks
    ]
    num_tokens = sum(extent.num_tokens for extent in extents)
    query = torch.randn(num_tokens, heads + 2, key_dim)[:, :heads]
    key_value = torch.randn(num_tokens, rule.shape.width)
    cache.layers[0].fill_(torch.nan)
    for extent in extents:
        for position in range(extent.start):
            block = extent.block_table[position // BLOCK_SIZE]
            cache.layers[0][block, position % BLOCK_SIZE] = torch.randn(rule.shape.width)
    compiled = find_cache_attention([rule], cache, torch.float32)
    got = PagedBatch(cache, extents, cache.device, compiled).attend(0, query, key_value, rule)
    cache.layers[0].nan_to_num_()  # which torch would multiply with zero
    wanted = PagedBatch(cache, extents, cache.device).attend(0, query, key_value, rule)
    torch.testing.assert_close(got, wanted)


@torch.inference_mode()
def test_what_a_token_attends_to_does_not_depend_on_how_its_prompt_was_cut_or_on_others():
    rule = HeadRule(LayerShape(3, 64, 64), None, None, None, None)
    query, key_value = torch.randn(150, 9, 64), torch.randn(150, rule.shape.width)

    def attended(chunks: list[int], others: list[Extent]) -> torch.Tensor:
        cache = KVCache({0: rule.shape}, 20, dtype=torch.float32, device=torch.device("cpu"))
        compiled, parts, start = find_cache_attention([rule], cache, torch.float32), [], 0
        for number in chunks:
            extents = [*others, Extent(start, number, [3, 9, 4, 1, 7])]
            beside = sum(other.num_tokens for other in others)
            rows = [
                torch.cat([torch.randn(beside, *of.shape[1:]), of[start : start + number]]) for of in (query, key_value)
            ]
            parts.append(PagedBatch(cache, extents, cache.device, compiled).attend(0, *rows, rule)[beside:])
            start += number
        return torch.cat(parts)

    whole = attended([150], [])
    assert torch.equal(attended([2, 40, 33, 75], [Extent(0, 7, [11]), Extent(20, 12, [12])]), whole)
    torch.testing.assert_close(attended([149, 1], []), whole)  # a token alone is added up in another order


@torch.inference_mode()
def test_numbers_that_are_none_do_not_get_lost_in_attention():
    """A request whose numbers went wrong is told so; see `llm.sampler`."""
    rule = HeadRule(LayerShape(1, 16, 16), None, None, None, None)
    cache = KVCache({0: rule.shape}, 4, dtype=torch.float32, device=torch.device("cpu"))
    query, key_value = torch.randn(20, 2, 16), torch.randn(20, rule.shape.width)
    query[3], key_value[10, 20] = torch.nan, torch.nan
    extents = [Extent(0, 20, [2])]
    compiled = find_cache_attention([rule], cache, torch.float32)
    got = PagedBatch(cache, extents, cache.device, compiled).attend(0, query, key_value, rule).isnan().any((1, 2))
    assert got[3]
    assert got[10:].all()


@ParallelLoop
def _mark(arguments: Any) -> None:
    numbers = carray(arguments, 3)
    marks = carray(address(numbers[1]), numbers[0], np.int64)
    threads = carray(address(numbers[2]), 64, np.int64)
    place = take(arguments, 0)
    while place < numbers[0]:
        marks[place] += 1
        threads[thread_number()] = num_threads()
        place = take(arguments, 0)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_what_is_taken_is_taken_once_whatever_the_threads(num_threads: int):
    marks, threads = torch.zeros(100_000, dtype=torch.long), torch.zeros(64, dtype=torch.long)
    for _ in range(20):
        _mark(num_threads, len(marks), marks.data_ptr(), threads.data_ptr())
    assert torch.equal(marks, torch.full_like(marks, 20))
    assert int(threads.max()) == num_threads


_NORM = "from llm.operations import Norm; from llm.cpu_operations import CpuOperations; import torch; "


def test_the_loops_run_in_torchs_own_pool():
    """A pool of its own would fight torch's for the cores: each spins while the other works."""
    code = (
        "CpuOperations().normalise(torch.ones(64, 4096), Norm(torch.ones(4096), 1e-5)); torch.ones(64, 4096).exp(); "
        "print({line.split()[-1] for line in open('/proc/self/maps') if 'gomp' in line})"
    )
    assert _python(_NORM + code).count("libgomp") == 1


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_compiled_is_kept_where_that_can_be(tmp_path: Path, is_kept: bool):
    """A container's file system may be read-only."""
    folder = tmp_path / "cache"
    if not is_kept:
        folder.write_text("not a folder")
    code = "print(float(CpuOperations().normalise(torch.ones(1, 4), Norm(torch.ones(4), 0.0)).sum()))"
    assert _python(_NORM + code, TAKEOFF_CACHE_DIR=str(folder)) == "4.0"
    assert any(folder.glob("compiled/*/*/*.nbc")) == is_kept


def test_what_is_kept_is_found_again(tmp_path: Path):
    """The products were compiled at each start, and each left another file behind."""
    code = (
        "import torch; from llm.tiled_linear import TiledLinear; from llm.tiled_int8_linear import TiledInt8Linear\n"
        "print([form(torch.ones(1, 1), None)(torch.ones(1, 1)).item() for form in (TiledLinear, TiledInt8Linear)])\n"
        "from llm.cpu_attention import CpuDecodeAttention; from llm.attention import HeadRule\n"
        "from llm.kv_cache import LayerShape\n"
        "from llm.cpu_prefill_attention import CpuPrefillAttention\n"
        "for attention in CpuDecodeAttention, CpuPrefillAttention:\n"
        "    attention([HeadRule(LayerShape(1, 8, 8), None, None, None, None)], 32, torch.bfloat16)"
    )
    _python(code, TAKEOFF_CACHE_DIR=str(tmp_path))
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb?")}
    _python(code, TAKEOFF_CACHE_DIR=str(tmp_path))
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb?")} == kept


def test_tiles_of_a_cpu_with_half_as_wide_registers_compute_the_same(tmp_path: Path):
    """AVX2, which the machines that run these tests may have grown out of."""
    code = (
        "import torch; torch.cpu._is_avx512_supported = lambda: False\n"
        "from llm.tiles import LANES; from llm.tiled_linear import TiledLinear; torch.manual_seed(1)\n"
        "weight, bias, rows = torch.randn(70, 2100), torch.randn(70), torch.randn(27, 2100)\n"
        "for weight in weight, weight.bfloat16().float():\n"
        "    layer = TiledLinear(weight, bias); product = layer(rows)\n"
        "    expected = torch.nn.functional.linear(rows, weight, bias)\n"
        "    torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-3)\n"
        "    assert all(torch.equal(layer(row[None])[0], alone) for row, alone in zip(rows, product))\n"
        "print(LANES)"
    )
    assert _python(code, TAKEOFF_CACHE_DIR=str(tmp_path), **_AVX2) == "8"


def test_chunks_attend_the_same_on_a_cpu_with_half_as_wide_registers(tmp_path: Path):
    code = (
        "import torch; torch.cpu._is_avx512_supported = lambda: False\n"
        "from llm.attention import HeadRule; from llm.kv_cache import KVCache, LayerShape\n"
        "from llm.tiles import LANES\n"
        "from llm.cache_attention import find_cache_attention; from llm.paged_batch import Extent, PagedBatch\n"
        "rule = HeadRule(LayerShape(3, 64, 64), None, 70, None, None)\n"
        "query, key_value = torch.randn(150, 9, 64), torch.randn(150, rule.shape.width)\n"
        "for dtype in torch.float32, torch.bfloat16:\n"
        "    cache = KVCache({0: rule.shape}, 9, dtype=dtype, device=torch.device('cpu'))\n"
        "    pass_ = [cache, [Extent(0, 101, [3, 5, 2, 1]), Extent(0, 49, [4, 6])], cache.device]\n"
        "    compiled = find_cache_attention([rule], cache, torch.float32)\n"
        "    got, wanted = [PagedBatch(*pass_, *by).attend(0, query, key_value, rule) for by in ([compiled], [])]\n"
        "    torch.testing.assert_close(got, wanted)\n"
        "print(LANES, compiled.prefill is not None)"
    )
    assert _python(code, TAKEOFF_CACHE_DIR=str(tmp_path), **_AVX2) == "8 True"


def test_products_of_8_bits_are_the_same_on_every_cpu(tmp_path: Path):
    """Without VNNI oneDNN multiplied them: ten times as slowly as float32 on an AMD EPYC of 2021."""
    code = (
        "from llm.tiled_int8_linear import TiledInt8Linear; torch.manual_seed(1)\n"
        "rows, weight, bias = torch.randn(27, 2103), torch.randn(70, 2103), torch.randn(70)\n"
        "weight[3], rows[5] = 1, 1  # the largest sums that there are\n"
        "print(TiledInt8Linear(weight, bias)(rows).numpy().tobytes().hex())"
    )
    without = "torch.cpu._is_vnni_supported = lambda: False\n"
    narrow = "torch.cpu._is_avx512_supported = lambda: False\n"
    here = _python("import torch\n" + code, TAKEOFF_CACHE_DIR=str(tmp_path / "1"))
    assert len(here) == 2 * 4 * 27 * 70
    assert _python("import torch; " + without + code, TAKEOFF_CACHE_DIR=str(tmp_path / "2")) == here
    assert _python("import torch; " + narrow + code, TAKEOFF_CACHE_DIR=str(tmp_path / "3"), **_AVX2) == here


# A CPU of 2013, to numba.
_AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi,+bmi2,+popcnt,+sse4.2,+f16c"}


def _python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "model_repository/primary/1"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
