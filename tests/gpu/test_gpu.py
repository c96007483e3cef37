"""What only a GPU can show: its attention kernel and its recorded passes compute what transformers' models compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm.config import EngineConfig
from llm.cuda_runner import CudaRunner
from llm.model_loader import LoadedModel, load_model

from tests.engine.test_exactness import answers, prompts
from tests.engine.tiny_models import FAMILIES, build_model, save_model

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


def test_preempted_requests_go_on(tmp_path: Path):
    folder, reference = save_model("llama", tmp_path), build_model("llama")
    block = 256 * 3 * 2 * 2 * 8 * 2
    loaded = load(folder, page_cache_size=str(2 * block))
    requests = [[at % 250 for at in range(length)] for length in (240, 245, 250)]
    for prompt, answer in zip(requests, answers(loaded, requests, max_tokens=6), strict=True):
        check_greedy(reference, prompt, answer)
