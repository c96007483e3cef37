"""Makes the repository that Triton runs from: a folder per reader, named for its consumer group.

Usage: python model_repository/render.py FOLDER, which prints one model name per line. The `config.pbtxt` of a
model is that of primary with its own name, device and settings; its version folder `1` is a link to the one of
primary, so there is one copy of the code.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

PRIMARY = Path(__file__).resolve().parent / "primary"
sys.path.append(str(PRIMARY / "1"))  # where Triton, too, finds the engine's package

from llm.errors import ConfigError  # noqa: E402
from manifest import Reader, read_readers  # noqa: E402


def main(folder: Path) -> None:
    """Render what the environment asks for.

    Raises:
        SystemExit: with one sentence about a setting that cannot be used.
    """
    try:
        readers = read_readers(os.environ)
        render(readers, folder, cuda_device_count)
    except ConfigError as error:
        sys.exit(f"launch.sh: {error}")
    for reader in readers:
        print(reader.model)


def cuda_device_count() -> int:
    """How many GPUs torch can use."""
    import torch

    return torch.cuda.device_count()


def render(readers: Sequence[Reader], folder: Path, count_gpus: Callable[[], int]) -> None:
    """Write every reader's folder; `count_gpus` is asked only when a reader's device depends on it.

    Raises:
        ConfigError: a reader names a device that is not there.
    """
    base = (PRIMARY / "config.pbtxt").read_text()
    for config in [model_config(base, reader, device_of(reader, count_gpus)) for reader in readers]:
        write_model(folder / config.name, config)


def read_back(folder: Path) -> list[Reader]:
    """The readers whose models have been rendered into `folder`, by name."""
    readers = []
    for path in sorted(folder.glob("*/config.pbtxt"), key=lambda path: (len(path.parent.name), path)):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        settings = {name: value.string_value for name, value in config.parameters.items()}
        gpus = config.instance_group[0].gpus
        readers.append(Reader.of_model(config.name, settings, gpus[0] if gpus else 0))
    return readers


def device_of(reader: Reader, count_gpus: Callable[[], int]) -> str:
    """`cpu` or `cuda`: what the reader asks for, else cuda when there is one.

    Raises:
        ConfigError: it asks for a GPU that is not there.
    """
    device = reader.settings.get("device", "auto")
    if device == "cpu":
        return "cpu"
    num_gpus = count_gpus()
    if device == "auto" and num_gpus == 0:
        return "cpu"
    if num_gpus == 0:
        raise ConfigError(
            f"TAKEOFF_DEVICE='cuda' cannot be used for group {reader.group!r}: "
            "torch finds no CUDA device here; use cpu or leave it unset"
        )
    if reader.gpu >= num_gpus:
        raise ConfigError(
            f"cuda_visible_devices='{reader.gpu}' cannot be used for group {reader.group!r}: "
            f"torch finds {num_gpus} CUDA device(s) here; give a number below {num_gpus}"
        )
    return "cuda"


def model_config(base: str, reader: Reader, device: str) -> model_config_pb2.ModelConfig:
    """Primary's configuration for this reader on this device."""
    config = text_format.Parse(base, model_config_pb2.ModelConfig())
    config.name = reader.model
    instances = config.instance_group[0]
    if device == "cuda":
        instances.kind = model_config_pb2.ModelInstanceGroup.KIND_GPU
        instances.gpus[:] = [reader.gpu]  # without a number Triton makes an instance on every GPU
    else:
        instances.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    for name, value in {**reader.settings, "device": device}.items():
        config.parameters[name].string_value = value
    return config


def write_model(folder: Path, config: model_config_pb2.ModelConfig) -> None:
    """Write the model's configuration and link its version folder to primary's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    # Triton takes a load for done where nothing but the configuration could have changed, and that has not: but the
    # model's own files may have.
    (folder / "rendered").write_text(str(time.time_ns()))
    version = folder / "1"
    version.unlink(missing_ok=True)
    version.symlink_to(PRIMARY / "1")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
