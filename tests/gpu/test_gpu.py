"""What only a GPU can show: its attention kernel and its recorded passes compute what transformers' models compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm.config import EngineConfig
from llm.cuda_drawing import CudaSampler
from llm.cuda_kernels import CudaKernels, find_kernels
from llm.cuda_operations import CudaOperations
from llm.cuda_runner import CudaRunner
from llm.drawing import Distributions, draw
from llm.errors import EngineError
from llm.model_loader import LoadedModel, load_model
from llm.operations import Norm, TorchOperations
from llm.request import GenerationRequest, SamplingParams, Submission
from llm.sequence import Sequence

from tests.engine.fakes import RecordingSink
from tests.engine.test_exactness import answers, prompts
from tests.engine.tiny_models import FAMILIES, build_model, save_model

CUDA = torch.device("cuda", 0)
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")

# Families whose layers ask for a soft cap or sinks, which the kernel has not.
_WITHOUT_KERNEL = {"gemma2", "gpt_oss"}
# Mixtures of experts look on the CPU which expert a token goes to; that cannot be recorded.
_WITHOUT_GRAPHS = {"mixtral", "qwen3_moe"}
# Tokens whose logits are closer than this share of their spread may change places. float16 keeps 11 bits: bfloat16's 8
# move the logits of these tiny models, whose weights are large, by a third of their spread.
_TOLERANCE = 0.1


def load(folder: Path, **settings: str) -> LoadedModel:
    named = {"model_name": str(folder), "device": "cuda", "page_cache_size": "64MiB", "max_batch_size": "8"}
    named["dtype"] = "float16"
    return load_model(EngineConfig.from_settings({**named, **settings}))


def check_greedy(reference: Any, prompt: list[int], answer: list[int]) -> None:
    """Every token is the most likely one by transformers' float32 logits, but for rounding."""
    with torch.inference_mode():
        logits = reference(torch.tensor([[*prompt, *answer]])).logits[0]
    for at, token in enumerate(answer, start=len(prompt) - 1):
        behind = float((logits[at].max() - logits[at, token]) / logits[at].std())
        assert behind < _TOLERANCE, (at, token)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_the_most_likely_ones_alone_in_a_crowd_reused_and_chunked(family: str, tmp_path: Path):
    folder, reference = save_model(family, tmp_path), build_model(family)
    requests = [*prompts(6), [at % 250 for at in range(200)]]
    loaded = load(folder)
    for asked in (requests, requests[:1], requests):
        for prompt, answer in zip(asked, answers(loaded, asked), strict=True):
            check_greedy(reference, prompt, answer)
    for prompt, answer in zip(requests, answers(load(folder, max_batch_tokens="7"), requests), strict=True):
        check_greedy(reference, prompt, answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_and_recorded_passes_are_used(family: str, tmp_path: Path):
    runner = load(save_model(family, tmp_path)).engine._runner
    assert isinstance(runner, CudaRunner) == (family not in _WITHOUT_KERNEL)
    if isinstance(runner, CudaRunner) and family not in _WITHOUT_GRAPHS:
        assert runner._graphs is not None
        assert runner._graphs._graphs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"top_k": 9, "top_p": 0.8}])
def test_a_seed_repeats_its_text_in_any_company(settings: dict[str, float], dtype: str, tmp_path: Path):
    loaded = load(save_model("llama", tmp_path), dtype=dtype)
    sampling = {"temperature": 1.0, "seed": 42, **settings}
    crowd = answers(loaded, prompts(4), **sampling)
    assert answers(loaded, prompts(4), **sampling) == crowd
    assert [answers(loaded, [prompt], **sampling)[0] for prompt in prompts(4)] == crowd


def rows_of(count: int, **settings: Any) -> list[Sequence]:
    return [
        Sequence(
            submission=Submission(GenerationRequest((1,), SamplingParams()), RecordingSink()),
            index=0,
            token_ids=[1],
            max_length=9,
            seed=seed,
            end_token_ids=frozenset(),
            **{"temperature": 1.0, "top_p": 1.0, "top_k": 0, **settings},
        )
        for seed in range(count)
    ]


def tokens_of(draws: list[Any]) -> list[int]:
    return [draw.token_id for draw in draws]


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16], ids=str)
def kernels(request: pytest.FixtureRequest) -> CudaKernels:
    found = find_kernels(request.param, CUDA)
    assert found is not None
    return found


@pytest.mark.parametrize("vocabulary", [300, 49_152, 128_256, 50_257])
def test_the_kernel_draws_what_torch_draws(kernels: Any, vocabulary: int):
    logits = torch.randn(64, vocabulary, device=CUDA, generator=torch.Generator(CUDA).manual_seed(5)).mul(3)
    logits = logits.to(kernels.dtype)
    sampler, sequences = CudaSampler(kernels, CUDA, 64), rows_of(64, temperature=0.7)
    wanted = draw(Distributions.of(logits.float(), sequences))
    # A segment's mass is summed in another order, which decides few draws.
    same = [one == other for one, other in zip(tokens_of(sampler.sample(logits, sequences)), wanted, strict=True)]
    assert sum(same) >= 62
    greedy = tokens_of(sampler.sample(logits, rows_of(64, temperature=0.0)))
    assert greedy == logits.float().argmax(dim=-1).tolist()


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.6}, {"top_k": 3}, {"min_p": 0.3}, {"top_k": 4, "min_p": 0.2}])
def test_the_kernel_draws_by_the_filtered_distribution(kernels: Any, settings: dict[str, Any]):
    num_rows = 20_000
    scores = torch.tensor([2.0, 1.5, 1.5, 0.5, 0.0, -1.0, -2.0, 1.0])
    logits = torch.full((1, 600), -30.0)
    logits[0, [3, 40, 41, 255, 256, 400, 511, 599]] = scores
    logits = logits.to(CUDA, kernels.dtype).expand(num_rows, -1).contiguous()
    drawn = tokens_of(CudaSampler(kernels, CUDA, num_rows).sample(logits, rows_of(num_rows, **settings)))
    wanted = filtered(logits[0].float().cpu(), **settings)
    counts = torch.bincount(torch.tensor(drawn), minlength=600).double()
    assert counts[wanted == 0].sum() == 0
    kept = wanted > 1e-6
    statistic = float(((counts - num_rows * wanted) ** 2 / (num_rows * wanted))[kept].sum())
    freedom = torch.tensor((int(kept.sum()) - 1) / 2)
    assert float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2))) > 1e-4


def filtered(logits: torch.Tensor, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0) -> torch.Tensor:
    probabilities = logits.double().softmax(-1)
    order = probabilities.sort(descending=True, stable=True)
    before = order.values.cumsum(-1) - order.values
    kept = (before < top_p) & (order.values >= min_p * order.values[0])
    if top_k:
        kept &= torch.arange(len(logits)) < top_k
    wanted = torch.zeros_like(probabilities).scatter(0, order.indices[kept], order.values[kept])
    return wanted / wanted.sum()


def test_logits_that_are_no_numbers_fail_their_row_alone(kernels: Any):
    logits = torch.zeros(3, 500, device=CUDA, dtype=kernels.dtype)
    logits[1, 77] = float("nan")
    logits[2, 9] = 5.0
    sampler = CudaSampler(kernels, CUDA, 3)
    first, second, third = sampler.sample(logits, rows_of(3, temperature=0.0))
    assert isinstance(second, EngineError)
    assert tokens_of([first, third]) == [0, 9]


@pytest.mark.parametrize("num_rows", [0, 1, 7, 300])
def test_the_layers_kernels_compute_what_torch_computes(kernels: Any, num_rows: int):
    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(CUDA, kernels.dtype)

    ours, theirs = CudaOperations(kernels), TorchOperations()
    close = {"rtol": 2e-2, "atol": 2e-2}
    for width in (32, 576, 2048, 20_000):
        norm = Norm(some(width), 1e-5)
        rows = some(num_rows, width)
        torch.testing.assert_close(ours.normalise(rows, norm), theirs.normalise(rows, norm), **close)
    both = some(num_rows, 2 * 96)
    torch.testing.assert_close(ours.gate(both, torch.nn.SiLU()), theirs.gate(both, torch.nn.SiLU()), **close)
    joined, angles = some(num_rows, 8 * 64), some(num_rows, 64)
    cos, sin, turned = angles.cos(), angles.sin(), joined.clone()
    ours.rotate(joined, 5, cos, sin)
    theirs.rotate(turned, 5, cos, sin)
    torch.testing.assert_close(joined, turned, **close)


def test_preempted_requests_go_on(tmp_path: Path):
    folder, reference = save_model("llama", tmp_path), build_model("llama")
    block = 256 * 3 * 2 * 2 * 8 * 2
    loaded = load(folder, page_cache_size=str(2 * block))
    requests = [[at % 250 for at in range(length)] for length in (240, 245, 250)]
    for prompt, answer in zip(requests, answers(loaded, requests, max_tokens=6), strict=True):
        check_greedy(reference, prompt, answer)
