import json
import shutil
import socket
from pathlib import Path

import pytest

from tests.launch.launched import launched


def refusal(run_dir: Path, **environ: str) -> str:
    """The one line in which a launch says why it did not start; it must end with 1 and leave nothing."""
    with launched(run_dir, **environ) as launch:
        assert launch.exit_code() == 1, launch.output
        assert launch.processes() == []
        reasons = [line for line in launch.output.splitlines() if line.startswith("launch.sh: ")]
        assert len(reasons) == 1, launch.output
        return reasons[0]


@pytest.mark.parametrize("setting", ["OPENAI_PORT", "TRITON_GRPC_PORT"])
def test_a_port_in_use_is_named_with_its_setting(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        reason = refusal(tmp_path, **{f"TAKEOFF_{setting}": str(port)})
    assert f"port {port} is in use" in reason
    assert f"set TAKEOFF_{setting} to a free port" in reason


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1", "٨٠"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    assert f"TAKEOFF_TRITON_HTTP_PORT='{port}' cannot be used" in refusal(tmp_path, TAKEOFF_TRITON_HTTP_PORT=port)


def test_two_settings_with_the_same_port_are_refused(tmp_path: Path) -> None:
    # below all ports that a launch of the tests draws for its other settings
    reason = refusal(tmp_path, TAKEOFF_TRITON_HTTP_PORT="14765", TAKEOFF_OPENAI_PORT="14765")
    assert "TAKEOFF_OPENAI_PORT=14765 cannot be used: TAKEOFF_TRITON_HTTP_PORT is 14765 too" in reason


def test_a_host_that_is_not_this_machine_is_refused(tmp_path: Path) -> None:
    assert "192.0.2.1" in refusal(tmp_path, TAKEOFF_HOST="192.0.2.1")


def test_a_model_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    reason = refusal(tmp_path, TAKEOFF_MODEL_NAME="/no/such/model")
    assert "TAKEOFF_MODEL_NAME='/no/such/model' cannot be used: there is no such folder" in reason


def test_a_hub_name_that_is_unknown_is_named(tmp_path: Path) -> None:
    reason = refusal(tmp_path, TAKEOFF_MODEL_NAME="no-such-organisation/no-such-model", HF_HUB_OFFLINE="1")
    assert "the model of group 'primary' did not load" in reason
    assert "no-such-organisation/no-such-model" in reason


def test_a_folder_with_a_broken_config_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "broken-model"
    folder.mkdir()
    (folder / "config.json").write_text("{ not json")
    reason = refusal(tmp_path, TAKEOFF_MODEL_NAME=str(folder))
    assert "the model of group 'primary' did not load" in reason
    assert "broken-model" in reason


def test_a_folder_with_cut_weights_is_named(tmp_path: Path, default_model: Path) -> None:
    folder = tmp_path / "cut-model"
    shutil.copytree(default_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with (default_model / "model.safetensors").open("rb") as weights:
        (folder / "model.safetensors").write_bytes(weights.read(100_000))
    reason = refusal(tmp_path, TAKEOFF_MODEL_NAME=str(folder))
    assert "the model of group 'primary' did not load" in reason
    assert "cut-model" in reason


def test_an_architecture_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "odd-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    assert "no_such_type" in refusal(tmp_path, TAKEOFF_MODEL_NAME=str(folder))


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    reason = refusal(tmp_path, TAKEOFF_DEVICE="cuda", CUDA_VISIBLE_DEVICES="")
    assert "TAKEOFF_DEVICE='cuda' cannot be used" in reason


@pytest.mark.parametrize("name", ["TAKEOFF_MAX_BATCH_SIZE", "TAKEOFF_MAX_SEQUENCE_LENGTH", "TAKEOFF_PAGE_CACHE_SIZE"])
def test_a_bad_engine_setting_is_named(tmp_path: Path, name: str) -> None:
    assert f"{name}='many' cannot be used" in refusal(tmp_path, **{name: "many"})


def test_a_bad_proxy_setting_ends_triton_too(tmp_path: Path) -> None:
    reason = refusal(tmp_path, TAKEOFF_PROXY_WORKERS="none")
    assert "TAKEOFF_PROXY_WORKERS='none' cannot be used" in reason


def test_a_bad_group_in_a_file_is_named_with_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "groups.yaml"
    path.write_text("takeoff: {readers_config: {reader7: {model_name: gpt2, max_batch: 4}}}")
    reason = refusal(tmp_path, TAKEOFF_CONFIG_FILE=str(path))
    assert "reader reader7: 'max_batch' is no setting: the nearest one is 'max_batch_size'" in reason


def test_models_of_somebody_else_in_the_run_folder_are_not_deleted(tmp_path: Path) -> None:
    """The rendered repository lies in the run folder as `models`, and the one of before is removed: so were theirs."""
    theirs = tmp_path / "models" / "llama" / "weights"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    reason = refusal(tmp_path, TAKEOFF_MODEL_NAME=str(tmp_path))
    assert f"{tmp_path}/models exists and is not Slipstream's" in reason
    assert theirs.read_text() == "precious"
