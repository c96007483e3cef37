"""Checkpoints in other forms than plain safetensors."""

import json
from pathlib import Path

import pytest
import torch
from llm.errors import ModelLoadError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.engine.test_exactness import answers, expected, load, prompts
from tests.engine.tiny_models import save_model


def test_weights_quantised_to_8_bits_before_are_served_as_transformers_reads_them(tmp_path: Path):
    folder = save_model("llama", tmp_path)
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        weights[name] = weight
        if "proj" in name:
            scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            weights[name] = (weight / scale).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    (folder / "config.json").write_text(json.dumps(config))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    requests = prompts(3)
    assert answers(load(folder), requests) == [expected(reference, prompt) for prompt in requests]


def test_code_that_comes_with_a_model_runs_only_when_asked_for(tmp_path: Path):
    folder = save_model("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "their_own"
    config["auto_map"] = {"AutoConfig": "theirs.TheirConfig"}
    (folder / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "code-has-run"
    (folder / "theirs.py").write_text(f"open({str(mark)!r}, 'w').close()\nraise RuntimeError('their code')\n")
    with pytest.raises(ModelLoadError, match="set TAKEOFF_TRUST_REMOTE_CODE=true"):
        load(folder)
    assert not mark.exists()
    with pytest.raises(ModelLoadError, match="their code"):
        load(folder, trust_remote_code="true")
    assert mark.exists()


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", LFS_POINTER, "model.safetensors is only Git LFS's pointer .* run 'git lfs pull' in "),
        ("tokenizer.json", LFS_POINTER, "tokenizer.json is only Git LFS's pointer"),
        ("model.safetensors", b"", "model.safetensors is empty: copy or download it again"),
        ("model.safetensors", b"<!DOCTYPE html><html></html>", "model.safetensors is cut short, or no file of weights"),
        ("model.safetensors.index.json", b"[]", "model.safetensors.index.json is no index of weights"),
        ("config.json", b"{}", "its config.json: Unrecognized model"),
        ("tokenizer.json", b"{", "its tokenizer: Expecting property name"),
        (
            "generation_config.json",
            b'{"temperature": -3}',
            "correct its generation_config.json, .* temperature must be",
        ),
        ("generation_config.json", b'{"temperature": "hot"}', "correct its generation_config.json, or remove it: "),
    ],
)
def test_a_broken_file_is_named_with_what_to_do(tmp_path: Path, file: str, content: bytes, words: str):
    """Most were told in the words of a parser, without the file's name; some came as a traceback."""
    folder = save_model("llama", tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(ModelLoadError, match=words):
        load(folder)


def test_what_lacks_in_a_folder_is_named(tmp_path: Path):
    folder = save_model("llama", tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is cut short"):
        load(folder)
    (folder / "model.safetensors").write_bytes(weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ModelLoadError, match=r"other shapes than its config\.json says"):
        load(folder)
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelLoadError, match="it has no tokenizer: save one beside it"):
        load(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelLoadError, match="it is an adapter for another model: merge both"):
        load(folder)
    (folder / "model.gguf").write_bytes(LFS_POINTER)
    for name in (folder, folder / "model.gguf"):
        with pytest.raises(ModelLoadError, match=r"model\.gguf is only Git LFS's pointer"):
            load(name)


def test_a_folder_that_lacks_a_part_of_its_weights_is_named(tmp_path: Path):
    folder = save_model("llama", tmp_path)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {"model.embed_tokens.weight": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    with pytest.raises(ModelLoadError, match=r"1 of its 2 files .* are missing, model-00002-of-00002\.safetensors"):
        load(folder)
