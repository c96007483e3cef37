"""Greedy ids equal transformers' own `generate()`, for every family, alone, in a crowd, chunked and preempted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm.config import EngineConfig
from llm.errors import ModelLoadError
from llm.model_loader import LoadedModel, load_model
from llm.prompt_lookup import PromptLookup
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from tests.engine.fakes import RecordingSink, submit
from tests.engine.tiny_models import FAMILIES, build_model, byte_tokenizer, save_model

NUM_NEW = 24


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    lengths = [3, 40, 9, 1, 22, 33][:count]
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


def expected(model: Any, prompt: list[int], num_new: int = NUM_NEW) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]), max_new_tokens=num_new, do_sample=False, attention_mask=torch.ones(1, len(prompt))
    )
    ids: list[int] = output[0][len(prompt) :].tolist()
    return ids


def load(folder: Path, **settings: str) -> LoadedModel:
    return load_model(
        EngineConfig.from_settings({"model_name": str(folder), "device": "cpu", "page_cache_size": "8MiB", **settings})
    )


def answers(loaded: LoadedModel, requests: list[list[int]], **sampling: object) -> list[list[int]]:
    sinks: list[RecordingSink] = [
        submit(loaded.engine, prompt, **{"max_tokens": NUM_NEW, "temperature": 0.0, **sampling})[1]
        for prompt in requests
    ]
    while not all(sink.ended.is_set() for sink in sinks):
        loaded.engine.step()
    assert all(sink.error is None for sink in sinks)
    return [sink.token_ids[0] for sink in sinks]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_ids_equal_generate_alone_in_a_crowd_reused_and_chunked(family: str, tmp_path: Path):
    folder = save_model(family, tmp_path)
    reference = build_model(family)
    requests = prompts(6)
    wanted = [expected(reference, prompt) for prompt in requests]
    crowd = load(folder)
    assert answers(crowd, requests) == wanted
    assert [answers(crowd, [prompt])[0] for prompt in requests[:3]] == wanted[:3]
    # Again, with the prompts' blocks in the cache by now.
    assert answers(crowd, requests) == wanted
    chunked = load(folder, max_batch_tokens="7")
    assert answers(chunked, requests) == wanted


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_greedy_ids_survive_preemption(family: str, tmp_path: Path):
    folder = save_model(family, tmp_path)
    requests = prompts(6)
    wanted = [expected(build_model(family), prompt) for prompt in requests]
    # Three blocks of 32 tokens for six requests of up to 64.
    block = 32 * 3 * 2 * 2 * 8 * 4
    cramped = load(folder, page_cache_size=str(3 * block))
    assert answers(cramped, requests) == wanted
    assert cramped.engine.scheduler.num_preemptions > 0
    pool = cramped.engine.scheduler.pool
    assert pool.num_free == pool.num_blocks == 3


def test_a_seed_gives_the_same_ids_whatever_the_batch(tmp_path: Path):
    loaded = load(save_model("llama", tmp_path))
    requests = prompts(6)
    settings = {"temperature": 1.0, "top_p": 0.9, "seed": 42}
    alone = [answers(loaded, [prompt], **settings)[0] for prompt in requests]
    assert answers(loaded, requests, **settings) == alone
    chunked = load(tmp_path, max_batch_tokens="5")
    assert answers(chunked, requests[::-1], **settings) == alone[::-1]


@pytest.mark.parametrize(
    ("family", "quant_type"),
    [
        ("llama", "none"),
        ("llama", "int8"),
        ("gemma2", "none"),
        ("gpt2", "none"),
        ("mixtral", "none"),
        ("gpt_oss", "none"),
    ],
)
def test_drafts_change_nothing_but_the_number_of_passes(
    family: str, quant_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Drafts that are right, and in places wrong, which a model of random weights would hardly have by itself."""
    folder = save_model(family, tmp_path)
    plain = load(folder, quant_type=quant_type, speculative_tokens="0")
    drafting = load(folder, quant_type=quant_type, speculative_tokens="7", max_batch_size="3")
    requests = prompts(4)
    known: list[tuple[list[int], list[int]]] = []

    def draft(_lookup: PromptLookup, token_ids: list[int], most: int) -> list[int]:
        for prompt, answer in known:
            said = token_ids[len(prompt) :]
            if token_ids[: len(prompt)] == prompt and answer[: len(said)] == said:
                right = answer[len(said) : len(said) + most]
                return right if len(said) % 3 else [*right[:2], 7, *right[3:]]
        return []

    monkeypatch.setattr(PromptLookup, "draft", draft)
    for settings in ({}, {"temperature": 1.0, "seed": 3, "top_p": 0.9}):
        wanted = answers(plain, requests, **settings)
        known[:] = zip(requests, wanted, strict=True)
        assert answers(drafting, requests, **settings) == wanted
        assert [answers(drafting, [prompt], **settings)[0] for prompt in requests] == wanted
    load_ = drafting.engine.load
    assert 80 < load_.num_accepted_tokens < load_.num_drafted_tokens
    assert load_.num_used_blocks == plain.engine.load.num_drafted_tokens == 0


def likeliest(loaded: LoadedModel, prompt: list[int]) -> dict[int, float]:
    """The twenty likeliest next tokens with their log probabilities."""
    _, sink = submit(loaded.engine, prompt, max_tokens=1, temperature=0.0, logprobs=20)
    while not sink.ended.is_set():
        loaded.engine.step()
    return dict(sink.logprobs[0].top)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_bfloat16_is_near_float32_and_takes_half_the_memory(family: str, tmp_path: Path):
    folder = save_model(family, tmp_path)
    exact, rounded = load(folder), load(folder, dtype="bfloat16")
    assert (exact.description.dtype, rounded.description.dtype) == ("float32", "bfloat16")
    assert rounded.engine.scheduler.pool.num_blocks // 2 == exact.engine.scheduler.pool.num_blocks
    assert exact.description.fingerprint != rounded.description.fingerprint
    for prompt in prompts(6):
        likely, nearly = (likeliest(loaded, prompt) for loaded in (exact, rounded))
        both = likely.keys() & nearly.keys()
        assert len(both) > 10
        assert [nearly[token] for token in both] == pytest.approx([likely[token] for token in both], abs=0.4)
        assert nearly != likely
    assert [len(ids) for ids in answers(rounded, prompts(6), ignore_eos=True)] == [NUM_NEW] * 6


@pytest.mark.parametrize("settings", [{"dtype": "float16"}, {"dtype": "bfloat16", "quant_type": "int8"}])
def test_numbers_that_the_device_does_not_compute_are_refused_at_load(settings: dict[str, str], tmp_path: Path):
    with pytest.raises(ModelLoadError, match=r"TAKEOFF_DTYPE=.*use (bfloat16 or )?float32"):
        load(save_model("llama", tmp_path), **settings)


def test_8_bits_leave_room_for_twice_the_tokens(tmp_path: Path):
    folder = save_model("llama", tmp_path)
    exact, rounded = load(folder), load(folder, quant_type="int8")
    assert rounded.engine.scheduler.pool.num_blocks // 2 == exact.engine.scheduler.pool.num_blocks
    assert [len(ids) for ids in answers(rounded, prompts(6), ignore_eos=True)] == [NUM_NEW] * 6


def test_8_bits_are_refused_by_a_cpu_without_the_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: False)
    with pytest.raises(ModelLoadError, match=r"TAKEOFF_QUANT_TYPE=int8 needs a CPU with AVX2.*use none"):
        load(save_model("llama", tmp_path), quant_type="int8")


def test_a_cpu_without_bfloat16_is_warned_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "old", "avx2": True})
    load(save_model("llama", tmp_path), dtype="bfloat16")
    assert "float32 may be faster" in caplog.text


def test_different_seeds_give_different_texts(tmp_path: Path):
    loaded = load(save_model("llama", tmp_path))
    texts = {tuple(answers(loaded, [[1, 2, 3]], temperature=1.0, seed=seed)[0]) for seed in range(5)}
    assert len(texts) == 5


def test_the_context_is_the_smallest_of_setting_model_and_cache(tmp_path: Path):
    folder = save_model("llama", tmp_path)
    assert load(folder).description.max_model_len == 256
    assert load(folder, max_sequence_length="100").description.max_model_len == 100
    assert load(folder, max_sequence_length="9999").description.max_model_len == 256
    two_blocks = 2 * 32 * 3 * 2 * 2 * 8 * 4
    assert load(folder, page_cache_size=str(two_blocks)).description.max_model_len == 64


def test_an_answer_may_fill_the_whole_cache(tmp_path: Path):
    two_blocks = 2 * 32 * 3 * 2 * 2 * 8 * 4
    loaded = load(save_model("llama", tmp_path), page_cache_size=str(two_blocks))
    (ids,) = answers(loaded, [[1, 2, 3]], max_tokens=1000, temperature=1.0, seed=3)
    assert len(ids) == 61 or ids[-1] == 257


@pytest.mark.parametrize("family", ["bloom", "mamba2", "gpt_neo"])
def test_a_model_that_keeps_its_state_elsewhere_is_refused_by_name(family: str, tmp_path: Path):
    sizes: dict[str, Any] = {
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300},
        "mamba2": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 8,
            "state_size": 8,
            "n_groups": 1,
            "vocab_size": 300,
        },
        "gpt_neo": {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "vocab_size": 300,
        },
    }[family]
    save_model("llama", tmp_path)
    config = AutoConfig.for_model(family, **sizes, bos_token_id=256, eos_token_id=257)
    (tmp_path / "model.safetensors").unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"(?i)bloom|mamba2|gpt_?neo"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("family", "auto_class", "words"),
    [
        ("bert", AutoModel, "no weights for"),
        ("bert", AutoModelForMaskedLM, "is an encoder"),
        ("t5", AutoModelForSeq2SeqLM, "t5 is no decoder model"),
    ],
)
def test_a_model_that_cannot_continue_a_text_is_refused(family: str, auto_class: Any, words: str, tmp_path: Path):
    """transformers makes up weights for a BERT's missing head, with a warning: it was served and wrote nonsense."""
    sizes: dict[str, Any] = {
        "bert": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "vocab_size": 300,
        },
        "t5": {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 300},
    }[family]
    auto_class.from_config(AutoConfig.for_model(family, **sizes)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=words) as refusal:
        load(tmp_path)
    assert len(str(refusal.value)) < 400


def test_a_folder_that_is_not_there_or_not_whole_is_a_sentence(tmp_path: Path):
    with pytest.raises(ModelLoadError, match="there is no such folder"):
        load(tmp_path / "missing")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load(tmp_path)
    folder = save_model("llama", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load(folder)


def test_a_cache_that_cannot_be_had_is_refused(tmp_path: Path):
    folder = save_model("llama", tmp_path)
    with pytest.raises(ModelLoadError, match="TAKEOFF_PAGE_CACHE_SIZE=10 "):
        load(folder, page_cache_size="10")
    with pytest.raises(ModelLoadError, match="TAKEOFF_PAGE_CACHE_SIZE=99TB "):
        load(folder, page_cache_size="99TB")


def test_cuda_on_a_machine_without_one_is_refused(tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelLoadError, match="no CUDA device"):
        load(save_model("llama", tmp_path), device="cuda")
