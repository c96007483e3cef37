import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from llm.errors import ConfigError
from manifest import Reader, read_readers
from render import PRIMARY, render
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parents[2]
KIND = model_config_pb2.ModelInstanceGroup


def rendered(tmp_path: Path, *readers: Reader, num_gpus: int = 0) -> dict[str, model_config_pb2.ModelConfig]:
    render(readers, tmp_path, lambda: num_gpus)
    return {reader.model: parsed(tmp_path / reader.model / "config.pbtxt") for reader in readers}


def parsed(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_a_group_is_primary_with_its_own_name_settings_and_a_link_to_the_code(tmp_path: Path) -> None:
    config = rendered(tmp_path, Reader("small", {"model_name": "gpt2", "max_batch_size": "4"}))["small"]
    given = {name: value.string_value for name, value in config.parameters.items()}
    assert given == {"model_name": "gpt2", "max_batch_size": "4", "device": "cpu"}
    assert (tmp_path / "small" / "1").resolve() == PRIMARY / "1"
    assert config.name == "small"

    base = parsed(PRIMARY / "config.pbtxt")
    for field in ("input", "output", "model_transaction_policy", "backend", "max_batch_size"):
        assert getattr(config, field) == getattr(base, field)


@pytest.mark.parametrize(
    ("device", "num_gpus", "kind", "gpus"),
    [
        ("auto", 0, KIND.KIND_CPU, []),
        ("auto", 2, KIND.KIND_GPU, [1]),
        ("cpu", 2, KIND.KIND_CPU, []),
        ("cuda", 2, KIND.KIND_GPU, [1]),
    ],
)
def test_the_instance_goes_where_the_device_is(
    tmp_path: Path, device: str, num_gpus: int, kind: int, gpus: list[int]
) -> None:
    group = Reader("primary", {"model_name": "gpt2", "device": device}, gpu=1)
    [instances] = rendered(tmp_path, group, num_gpus=num_gpus)["primary"].instance_group
    assert (instances.kind, list(instances.gpus), instances.count) == (kind, gpus, 1)


def test_replicas_are_models_of_their_own_on_the_gpus_named(tmp_path: Path) -> None:
    settings = {"model_name": "gpt2", "device": "cuda"}
    configs = rendered(tmp_path, Reader("big", settings, 1), Reader("big", settings, 0, replica=2), num_gpus=2)
    assert {name: list(config.instance_group[0].gpus) for name, config in configs.items()} == {
        "big": [1],
        "big--2": [0],
    }
    assert configs["big--2"].name == "big--2"


@pytest.mark.parametrize(("num_gpus", "sentence"), [(0, "torch finds no CUDA device here"), (1, "finds 1 CUDA device")])
def test_a_device_that_is_not_there_is_refused_and_nothing_is_written(
    tmp_path: Path, num_gpus: int, sentence: str
) -> None:
    group = Reader("primary", {"model_name": "gpt2", "device": "cuda"}, gpu=1)
    with pytest.raises(ConfigError, match=sentence):
        render([group], tmp_path, lambda: num_gpus)
    assert list(tmp_path.iterdir()) == []


def test_rendering_again_replaces_what_was_there(tmp_path: Path) -> None:
    rendered(tmp_path, Reader("primary", {"model_name": "old", "max_batch_size": "4"}))
    config = rendered(tmp_path, Reader("primary", {"model_name": "new"}))["primary"]
    assert config.parameters["model_name"].string_value == "new"
    assert "max_batch_size" not in config.parameters


def test_settings_with_quotes_and_other_scripts_survive_the_text_format(tmp_path: Path) -> None:
    name = '/models/"quoted" \\ größe 模型'
    config = rendered(tmp_path, Reader("primary", {"model_name": name}))["primary"]
    assert config.parameters["model_name"].string_value == name


def test_the_example_file_renders(tmp_path: Path) -> None:
    readers = read_readers({"TAKEOFF_CONFIG_FILE": str(ROOT / "config.example.yaml")})
    assert list(rendered(tmp_path, *readers)) == ["primary", "small"]


def render_program(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKEOFF_")}
    command = [sys.executable, ROOT / "model_repository" / "render.py", folder]
    return subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True, check=False)


def test_the_program_prints_one_group_per_line(tmp_path: Path) -> None:
    result = render_program(tmp_path, TAKEOFF_CONFIG_FILE=str(ROOT / "config.example.yaml"))
    assert (result.returncode, result.stdout) == (0, "primary\nsmall\n")


def test_the_program_refuses_in_one_line(tmp_path: Path) -> None:
    result = render_program(tmp_path, TAKEOFF_MODEL_NAME="gpt2", TAKEOFF_PAGE_CACHE_SIZE="lots")
    assert result.returncode == 1
    assert result.stderr.startswith("launch.sh: TAKEOFF_PAGE_CACHE_SIZE='lots' cannot be used: ")
    assert result.stderr.count("\n") == 1
