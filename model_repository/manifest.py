"""Which consumer groups to serve, and with which settings.

Read from TAKEOFF_* variables (one group, `primary`) or from a YAML file with Takeoff's manifest keys.
Knows neither Triton nor torch; what a setting means is the engine's EngineConfig alone.
"""

import difflib
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from llm.config import ENVIRONMENT_PREFIX, EngineConfig
from llm.errors import ConfigError

DEFAULT_GROUP = "primary"
# Becomes a folder's name, a Triton model's name and part of URLs.
_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_READER_KEYS = (*EngineConfig.setting_names(), "consumer_group", "cuda_visible_devices")


@dataclass(frozen=True)
class ConsumerGroup:
    """One model to serve.

    Attributes:
        name: what clients write as `model`.
        settings: the settings somebody gave, by the engine's names; defaults stay the engine's.
        gpu: index of the GPU to use, where the device is one.
    """

    name: str
    settings: Mapping[str, str]
    gpu: int = 0


def read_groups(environ: Mapping[str, str]) -> list[ConsumerGroup]:
    """The groups that the environment, or the file it names as TAKEOFF_CONFIG_FILE, asks for.

    Raises:
        ConfigError: a value cannot be used; the message names key, value and fix.
    """
    if path := environ.get(f"{ENVIRONMENT_PREFIX}CONFIG_FILE"):
        return _groups_of_file(Path(path), _environment_settings(environ))
    return [ConsumerGroup(DEFAULT_GROUP, _checked(_environment_settings(environ)))]


def _environment_settings(environ: Mapping[str, str]) -> dict[str, str]:
    names = EngineConfig.setting_names()
    return {name: value for name in names if (value := environ.get(ENVIRONMENT_PREFIX + name.upper(), "").strip())}


def _checked(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings, accepted by the engine's own parser, with a local model's folder made absolute."""
    EngineConfig.from_settings(settings)
    return {**settings, "model_name": _resolved_model(settings["model_name"])}


def _resolved_model(name: str) -> str:
    """The absolute folder when there is one by that name, as transformers would read it; else the hub name.

    Raises:
        ConfigError: the name can only be a folder's, and there is none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.exists():
        raise ConfigError(f"TAKEOFF_MODEL_NAME={name!r} cannot be used: it is a file; give the model's folder")
    if name.startswith(("/", "./", "../", "~")):
        raise ConfigError(
            f"TAKEOFF_MODEL_NAME={name!r} cannot be used: there is no such folder; give one, or a hub name"
        )
    return name


def _groups_of_file(path: Path, defaults: Mapping[str, str]) -> list[ConsumerGroup]:
    """The file's groups; the environment's settings stand in for what a reader leaves out."""
    readers = _readers(path, _load(path))
    groups: dict[str, ConsumerGroup] = {}
    for reader, keys in readers.items():
        try:
            group = _group_of_reader(keys, defaults)
            if group.name in groups:
                raise ConfigError(
                    f"consumer_group={group.name!r} cannot be used: another reader has it already, "
                    "and several readers of one group are not supported; give each its own"
                )
        except ConfigError as error:
            raise ConfigError(f"{path}, reader {reader}: {_in_words_of_the_file(str(error), keys)}") from None
        groups[group.name] = group
    return list(groups.values())


def _in_words_of_the_file(message: str, keys: Mapping[str, Any]) -> str:
    """The engine's message with the file's keys in place of the environment's names."""
    for key in keys:
        message = message.replace(f"{ENVIRONMENT_PREFIX}{str(key).upper()}=", f"{key}=")
    return message.replace(f"{ENVIRONMENT_PREFIX}MODEL_NAME is not set", "model_name is missing")


def _group_of_reader(keys: Mapping[str, Any], defaults: Mapping[str, str]) -> ConsumerGroup:
    given = {key: _scalar(_known(key), value) for key, value in keys.items() if value is not None}
    name = given.pop("consumer_group", DEFAULT_GROUP)
    if not _GROUP_NAME.fullmatch(name):
        raise ConfigError(
            f"consumer_group={name!r} cannot be used: "
            "give up to 64 letters, digits, dots, dashes or underscores, with a letter or digit first"
        )
    gpu = given.pop("cuda_visible_devices", "0")
    if not (gpu.isascii() and gpu.isdecimal()):
        raise ConfigError(f"cuda_visible_devices={gpu!r} cannot be used: give the number of one GPU, such as 0")
    return ConsumerGroup(name, _checked({**defaults, **given}), int(gpu))


def _known(key: object) -> str:
    if key in _READER_KEYS:
        return str(key)
    nearest = difflib.get_close_matches(str(key), _READER_KEYS, n=1, cutoff=0)[0]
    raise ConfigError(f"{key!r} is no setting: the nearest one is {nearest!r}")


def _scalar(key: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{key}={value!r} cannot be used: give one plain value")
    return str(value).strip()


def _readers(path: Path, document: object) -> Mapping[str, Mapping[str, Any]]:
    """The mapping below takeoff.readers_config, with its shape checked."""
    takeoff = document.get("takeoff") if isinstance(document, dict) else None
    if not isinstance(takeoff, dict):
        raise ConfigError(f"{path} cannot be used: it must begin with 'takeoff:'; see config.example.yaml")
    for key in takeoff:
        if key not in ("server_config", "readers_config"):
            raise ConfigError(f"{path}: {key!r} is no key of takeoff: give server_config or readers_config")
    if server := takeoff.get("server_config"):
        raise ConfigError(
            f"{path}: server_config ({', '.join(map(str, server))}) cannot be used: "
            "ports and other settings of the service are TAKEOFF_* variables; see the README's table"
        )
    readers = takeoff.get("readers_config")
    if not isinstance(readers, dict) or not readers:
        raise ConfigError(f"{path} cannot be used: readers_config names no reader; see config.example.yaml")
    for reader, keys in readers.items():
        if not isinstance(keys, dict):
            raise ConfigError(f"{path}, reader {reader}: give its settings as 'key: value' lines")
    return readers


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                problem = f"{key_node.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _load(path: Path) -> object:
    try:
        return yaml.load(path.read_text(), _UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(
            f"TAKEOFF_CONFIG_FILE={str(path)!r} cannot be read: {error.strerror}; give a YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
