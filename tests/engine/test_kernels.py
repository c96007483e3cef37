"""The kernels of `kernels.cu` compute what torch's operations compute: on a GPU where there is one, and on a CPU."""

import shutil
from typing import Any

import pytest
import torch
from llm.cuda_drawing import CudaSampler
from llm.cuda_kernels import find_kernels
from llm.cuda_operations import CudaOperations
from llm.drawing import MAX_ATTEMPTS, MISSED, Distributions, _draw_from_all
from llm.errors import EngineError
from llm.operations import Norm, TorchOperations
from llm.request import GenerationRequest, SamplingParams, Submission
from llm.sampler import Sampler
from llm.sequence import Sequence

from tests.engine.emulated_kernels import EmulatedKernels
from tests.engine.fakes import RecordingSink


@pytest.fixture(scope="module", params=["emulated", "bfloat16", "float16"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "emulated":
        if shutil.which("g++") is None:
            pytest.skip("g++ is not installed")
        return EmulatedKernels(tmp_path_factory.mktemp("kernels"))
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device here")
    found = find_kernels(getattr(torch, request.param), torch.device("cuda", 0))
    assert found is not None
    return found


@pytest.fixture
def device(kernels: Any) -> torch.device:
    return torch.device("cpu" if isinstance(kernels, EmulatedKernels) else "cuda")


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


def drawn_by_kernel(sampler: CudaSampler, logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    sampler._launch(logits, sequences, list(range(len(sequences))))
    return sampler._wait(len(sequences))


def some_logits(num_rows: int, vocabulary: int, kernels: Any, device: torch.device) -> torch.Tensor:
    random = torch.randn(num_rows, vocabulary, generator=torch.Generator().manual_seed(5)).mul(3)
    return random.to(device, kernels.dtype)


@pytest.mark.parametrize("vocabulary", [300, 2048, 50_257, 49_152])
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.6}, {"top_k": 3}, {"min_p": 0.3}, {"top_k": 4, "min_p": 0.2}])
def test_the_kernel_draws_what_torch_draws(settings: dict[str, Any], vocabulary: int, kernels: Any, device: Any):
    num_rows = 12
    logits = some_logits(num_rows, vocabulary, kernels, device)
    sequences = rows_of(num_rows, temperature=0.7, **settings)
    distributions = Distributions.of(logits.float(), sequences)
    wanted = [MISSED] * num_rows
    for attempt in reversed(range(MAX_ATTEMPTS)):
        tokens, are_kept = (column.tolist() for column in _draw_from_all(distributions, attempt))
        wanted = [token if kept else later for token, kept, later in zip(tokens, are_kept, wanted, strict=True)]
    drawn = drawn_by_kernel(CudaSampler(kernels, device, num_rows), logits, sequences)
    # A segment's mass is summed in another order, which decides few draws.
    assert sum(one == other for one, other in zip(drawn, wanted, strict=True)) >= num_rows - 1


@pytest.mark.parametrize("vocabulary", [300, 50_257])
def test_the_best_token_is_the_first_of_the_best(vocabulary: int, kernels: Any, device: torch.device):
    logits = some_logits(4, vocabulary, kernels, device)
    logits[1, [270, 290]] = 99.0
    drawn = tokens_of(CudaSampler(kernels, device, 4).start(logits, rows_of(4, temperature=0.0))())
    assert drawn[1] == 270
    assert logits.gather(1, torch.tensor(drawn, device=device)[:, None]).equal(logits.amax(1, keepdim=True))


def test_what_the_filters_dropped_in_every_attempt_is_drawn_nevertheless(kernels: Any, device: torch.device):
    logits = torch.zeros(2, 3000, device=device, dtype=kernels.dtype)
    logits[:, 2999] = 1.0
    drawn = drawn_by_kernel(CudaSampler(kernels, device, 2), logits, rows_of(2, top_k=1))
    assert drawn == [MISSED, MISSED]
    assert tokens_of(CudaSampler(kernels, device, 2).start(logits, rows_of(2, top_k=1))()) == [2999, 2999]


def test_logits_that_are_no_numbers_fail_their_row_alone(kernels: Any, device: torch.device):
    logits = torch.zeros(3, 500, device=device, dtype=kernels.dtype)
    logits[1, 77] = float("nan")
    logits[2, 9] = 5.0
    sampler = CudaSampler(kernels, device, 3)
    first, second, third = sampler.start(logits, rows_of(3, temperature=0.0))()
    assert isinstance(second, EngineError)
    assert tokens_of([first, third]) == [0, 9]


@pytest.mark.parametrize("num_rows", [1, 7, 70])
def test_the_layers_kernels_compute_what_torch_computes(kernels: Any, device: torch.device, num_rows: int):
    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(device, kernels.dtype)

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


def test_a_pass_that_samples_nothing_launches_nothing(kernels: Any, device: torch.device):
    nothing = torch.empty(0, 64, device=device, dtype=kernels.dtype)
    norm = Norm(torch.ones(64, device=device, dtype=kernels.dtype), 1e-5)
    assert CudaOperations(kernels).normalise(nothing, norm).shape == (0, 64)


def test_logits_of_another_type_are_left_to_torch(kernels: Any, device: torch.device):
    logits = some_logits(3, 500, kernels, device).float()
    sequences = rows_of(3, top_p=0.5)
    wanted = tokens_of(Sampler().sample(logits.clone(), sequences))
    assert tokens_of(CudaSampler(kernels, device, 3).start(logits.clone(), sequences)()) == wanted
