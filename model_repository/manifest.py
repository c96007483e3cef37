"""Which models to serve for which consumer groups, and with which settings.

Read from TAKEOFF_* variables (one reader, of the group `primary`) or from a YAML file with Takeoff's manifest keys.
Knows neither Triton nor torch; what a setting means is the engine's EngineConfig alone.
"""

import difflib
import re
import reprlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml
from llm.config import ENVIRONMENT_PREFIX, EngineConfig
from llm.errors import ConfigError

DEFAULT_GROUP = "primary"
# Becomes a folder's name, a Triton model's name and part of URLs.
_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPLICA_NAME = re.compile(r"(?P<group>.+)--(?P<replica>\d+)")
_MAX_GPU_DIGITS = 4
# What one replica of a group may have otherwise than another: none of it changes an answer.
_REPLICAS_OWN = ("device", "page_cache_size", "max_batch_size", "max_batch_tokens", "max_queue_size")
# YAML makes numbers, truth values and dates of some texts that are none: 1.10 becomes 1.1, 010 becomes 8.
_TEXTS = ("model_name", "consumer_group", "served_model_name", "revision")
# Beside the engine's settings: TAKEOFF_CONSUMER_GROUP and TAKEOFF_CUDA_VISIBLE_DEVICES in the environment.
_READER_KEYS = (*EngineConfig.setting_names(), "consumer_group", "cuda_visible_devices")


@dataclass(frozen=True)
class Reader:
    """One model to serve on one device. Several of one consumer group are its replicas.

    Attributes:
        group: what clients write as `model`.
        settings: the settings somebody gave, by the engine's names; defaults stay the engine's.
        gpu: index of the GPU to use, where the device is one.
        replica: its number among the group's readers, from 1.
    """

    group: str
    settings: Mapping[str, str]
    gpu: int = 0
    replica: int = 1

    @classmethod
    def of_model(cls, model: str, settings: Mapping[str, str], gpu: int) -> Self:
        """The reader whose model has this name."""
        match = _REPLICA_NAME.fullmatch(model)
        return cls(match["group"], settings, gpu, int(match["replica"])) if match else cls(model, settings, gpu)

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which clients may ask for the group."""
        return self.group, *EngineConfig.from_settings(self.settings).served_model_name

    @property
    def model(self) -> str:
        """What Triton calls it; docs/tensor-contract.md has the rule, which the proxy goes by."""
        return self.group if self.replica == 1 else f"{self.group}--{self.replica}"


def read_readers(environ: Mapping[str, str]) -> list[Reader]:
    """The readers that the environment, or the file it names as TAKEOFF_CONFIG_FILE, asks for.

    Raises:
        ConfigError: a value cannot be used; the message names key, value and fix.
    """
    if path := environ.get(f"{ENVIRONMENT_PREFIX}CONFIG_FILE"):
        return _readers_of_file(Path(path), _environment_settings(environ))
    return [_reader(_environment_settings(environ))]


def _environment_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that are set, by a reader's keys."""
    return {key: value for key in _READER_KEYS if (value := environ.get(ENVIRONMENT_PREFIX + key.upper(), "").strip())}


def _checked(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings, accepted by the engine's own parser, with a local model's folder made absolute."""
    EngineConfig.from_settings(settings)
    name = _resolved_model(settings["model_name"])
    if settings.get("revision") and name.startswith("/"):
        raise _bad("revision", settings["revision"], "a local folder has none; leave it out, or give a hub name")
    return {**settings, "model_name": name}


def _bad(key: str, value: str, fix: str) -> ConfigError:
    """In the environment's words, which become the file's where a file says so."""
    return ConfigError(f"{ENVIRONMENT_PREFIX}{key.upper()}={value!r} cannot be used: {fix}")


def _resolved_model(name: str) -> str:
    """The absolute folder or GGUF file when there is one by that name; else the hub name.

    Raises:
        ConfigError: the name can only be a folder's, and there is none.
    """
    try:
        path = Path(name).expanduser()
        is_model = path.is_dir() or (path.is_file() and path.suffix == ".gguf")
        is_there = path.exists()
    except (OSError, RuntimeError) as error:  # such as a folder above it that we must not look into
        reason = error.strerror if isinstance(error, OSError) else error
        raise _bad("model_name", name, f"{reason}; give a folder that can be read, or a hub name") from None
    if is_model:
        return str(path.resolve())
    if is_there:
        raise _bad("model_name", name, "it is a file; give the model's folder or a GGUF file")
    if name.startswith(("/", "./", "../", "~")):
        raise _bad("model_name", name, "there is no such folder; give one, or a hub name")
    return name


def readers_of_group(
    group: str, entries: Sequence[Mapping[str, Any]], others: Sequence[Reader], environ: Mapping[str, str]
) -> list[Reader]:
    """The readers that shall serve `group` beside `others`, each with the keys of a reader in the file.

    What names things is not taken from the environment: it names the first group already.

    Raises:
        ConfigError: a value cannot be used; the message names key, value and fix.
    """
    names = ("model_name", "consumer_group", "served_model_name", "revision")
    defaults = {key: value for key, value in _environment_settings(environ).items() if key not in names}
    readers: list[Reader] = []
    for number, keys in enumerate(entries, start=1):
        if keys.get("consumer_group") not in (None, group):
            raise ConfigError(
                f"reader {number}: consumer_group={keys['consumer_group']!r} is not {group!r}; leave it out"
            )
        readers.append(
            _reader_among([*others, *readers], f"reader {number}", {**keys, "consumer_group": group}, defaults)
        )
    return readers


def _readers_of_file(path: Path, defaults: Mapping[str, str]) -> list[Reader]:
    """The file's readers; the environment's settings stand in for what a reader leaves out."""
    readers: list[Reader] = []
    for name, keys in _entries(path, _load(path)).items():
        readers.append(_reader_among(readers, f"{path}, reader {name}", keys, defaults))
    return sorted(readers, key=lambda reader: [other.group for other in readers].index(reader.group))


def _reader_among(others: Sequence[Reader], label: str, keys: Mapping[str, Any], defaults: Mapping[str, str]) -> Reader:
    """The reader that these keys describe; `label` says in a refusal whose they are."""
    try:
        given = {key: _text(_known(key), value) for key, value in keys.items() if value is not None}
        return _among(others, _reader({**defaults, **given}))
    except ConfigError as error:
        raise ConfigError(f"{label}: {_in_words_of_the_file(str(error), keys)}") from None


def _among(others: Sequence[Reader], reader: Reader) -> Reader:
    """The reader, numbered among the replicas of its group.

    Raises:
        ConfigError: it cannot stand beside the others.
    """
    replicas = [other for other in others if other.group == reader.group]
    if replicas:
        _require_agreement(replicas[0], reader)
    taken = {name: other.group for other in others if other.group != reader.group for name in other.names}
    for name in reader.names:
        if name in taken:
            raise ConfigError(f"{name!r} is a name of consumer_group {taken[name]!r} already; give each name once")
    return replace(reader, replica=len(replicas) + 1)


def _require_agreement(first: Reader, other: Reader) -> None:
    """An answer must not depend on the replica that gives it."""
    for name in EngineConfig.setting_names():
        theirs, ours = first.settings.get(name), other.settings.get(name)
        if name not in _REPLICAS_OWN and ours != theirs:
            what = f"{name} is not set" if ours is None else f"{name}={ours!r} cannot be used"
            has = "none" if theirs is None else repr(theirs)
            raise ConfigError(
                f"{what}: another reader of consumer_group {first.group!r} has {has}, "
                "and replicas must answer alike; give both the same, or this one a group of its own"
            )


def _in_words_of_the_file(message: str, keys: Mapping[str, Any]) -> str:
    """The engine's message with the file's keys in place of the environment's names."""
    for key in keys:
        message = message.replace(f"{ENVIRONMENT_PREFIX}{str(key).upper()}=", f"{key}=")
    return message.replace(f"{ENVIRONMENT_PREFIX}MODEL_NAME is not set", "model_name is missing")


def _reader(settings: Mapping[str, str]) -> Reader:
    """The reader of these settings, by a reader's keys.

    Raises:
        ConfigError: a value cannot be used.
    """
    given = dict(settings)
    name = given.pop("consumer_group", DEFAULT_GROUP)
    if not _GROUP_NAME.fullmatch(name):
        fix = "give up to 64 letters, digits, dots, dashes or underscores, with a letter or digit first"
        raise _bad("consumer_group", name, fix)
    if _REPLICA_NAME.fullmatch(name):
        fix = "two dashes and a number at the end mark replicas; give the group's own name to several readers instead"
        raise _bad("consumer_group", name, fix)
    gpu = given.pop("cuda_visible_devices", "0")
    if not (gpu.isascii() and gpu.isdecimal() and len(gpu) <= _MAX_GPU_DIGITS):
        fix = "give the number of one GPU, such as 0; for several GPUs give each a reader of this consumer_group"
        raise _bad("cuda_visible_devices", gpu, fix)
    return Reader(name, _checked(given), int(gpu))


def _known(key: object) -> str:
    if key in _READER_KEYS:
        return str(key)
    meant = str(key).lower().removeprefix(ENVIRONMENT_PREFIX.lower())
    nearest = difflib.get_close_matches(meant, _READER_KEYS, n=1, cutoff=0)[0]
    raise ConfigError(f"{reprlib.repr(key):.100} is no setting: the nearest one is {nearest!r}")


def _text(key: str, value: object) -> str:
    """A value of the file as its variable would have it."""
    if key == "served_model_name" and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return ",".join(value)
    if isinstance(value, list | dict):
        raise ConfigError(f"{key}={reprlib.repr(value):.100} cannot be used: give one plain value")
    if key in _TEXTS and not isinstance(value, str):
        raise ConfigError(f"{key}={value} cannot be used: put it in quotes")
    if not isinstance(value, str | int | float):
        raise ConfigError(f"{key}={value} cannot be used: give one plain value")
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _entries(path: Path, document: object) -> Mapping[str, Mapping[str, Any]]:
    """The mapping below takeoff.readers_config, with its shape checked."""
    takeoff = document.get("takeoff") if isinstance(document, dict) else None
    if not isinstance(takeoff, dict):
        raise ConfigError(
            f"{path} cannot be used: it must begin with 'takeoff:' and 'readers_config:'; see config.example.yaml"
        )
    for key in takeoff:
        if key not in ("server_config", "readers_config"):
            raise ConfigError(f"{path}: {key!r} is no key of takeoff: give readers_config, and readers below it")
    if server := takeoff.get("server_config"):
        raise ConfigError(
            f"{path}: server_config ({reprlib.repr(server):.100}) cannot be used: "
            "ports and other settings of the service are TAKEOFF_* variables; see the README's table"
        )
    readers = takeoff.get("readers_config")
    if not isinstance(readers, dict) or not readers:
        raise ConfigError(f"{path} cannot be used: readers_config names no reader, as 'NAME:'; see config.example.yaml")
    for reader, keys in readers.items():
        if not isinstance(keys, dict):
            raise ConfigError(f"{path}, reader {reader}: give its settings as 'key: value' lines")
    return readers


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is no plain text", problem_mark=key_node.start_mark)
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
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date such as 2020-13-41
        reason = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise ConfigError(f"{path} is no valid YAML: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{path} cannot be used: its brackets go too deep") from None
