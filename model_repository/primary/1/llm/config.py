"""The engine's settings: names, defaults, parsing and bounds.

Imports no torch, so that a launcher can check them before anything heavy starts.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from llm.errors import ConfigError

ENVIRONMENT_PREFIX = "TAKEOFF_"

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(%|[KMGT]i?B|B)?", re.IGNORECASE)
_SERVED_NAME = re.compile(r"[^\s,]{1,128}")
_REVISION = re.compile(r"[\w][\w./-]{0,254}", re.ASCII)
_MAX_NAME_LENGTH = 1024
_MAX_INTEGER = 2**31 - 1
_MAX_DRAFT = 63
_DEVICES = ("auto", "cpu", "cuda")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_QUANT_TYPES = ("none", "int8")


def _setting(description: str, default: Any = MISSING) -> Any:
    if default is MISSING:
        return field(metadata={"description": description})
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of one engine; the environment calls each `TAKEOFF_` + its name in capitals."""

    model_name: str = _setting("hub name, local folder or GGUF file of the model")
    revision: str = _setting("branch, tag or commit of the model's hub repository; unset: its main branch", "")
    trust_remote_code: bool = _setting("`true` runs Python code that comes with the model, as some models need", False)
    served_model_name: tuple[str, ...] = _setting(
        "more names, separated by commas, under which clients may ask for the group", ()
    )
    device: str = _setting("`cpu`, `cuda`, or `auto`: cuda when there is one", "auto")
    max_sequence_length: int | None = _setting(
        "longest prompt plus answer, in tokens; unset: what the model and the KV cache can hold", None
    )
    max_batch_size: int = _setting("sequences that share a forward pass", 64)
    max_batch_tokens: int = _setting("tokens in one forward pass; longer prompts are computed in chunks", 512)
    speculative_tokens: int = _setting(
        "tokens of drafts that a pass checks, where few answers share it; a draft is what followed the last tokens "
        "where they stood before, so that answers which repeat something take fewer passes; 0: none",
        7,
    )
    max_pass_ms: int = _setting(
        "how long a forward pass may take that holds up running streams, in milliseconds: prompts beside them are "
        "computed in chunks of about that time",
        200,
    )
    max_queue_size: int = _setting("requests that may wait for a place in the batch; more are refused", 1024)
    page_cache_size: str = _setting(
        "memory for the KV cache: `4GiB`, `500MB`, or a share of the free memory such as `25%`; "
        "`auto`: 25% on a CPU (at most 4 GiB), 85% on a GPU",
        "auto",
    )
    dtype: str = _setting(
        "`float32`, `bfloat16` or `float16`: what the model is kept and computed in; `auto`: `bfloat16` on a GPU, "
        "`float32` on a CPU",
        "auto",
    )
    quant_type: str = _setting(
        "`int8` computes a CPU's linear layers with 8-bit weights, and keeps the KV cache in bfloat16 (AVX2 or newer); "
        "`none`: as they are",
        "none",
    )

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """The names that `from_settings` reads."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, overrides: Mapping[str, str]) -> Self:
        """Read `TAKEOFF_*` variables, and `overrides` by field name. An empty variable counts as absent.

        Raises:
            ConfigError: a value cannot be used, or `model_name` is missing.
        """
        named = {name: environ.get(ENVIRONMENT_PREFIX + name.upper(), "") for name in cls.setting_names()}
        return cls.from_settings({**named, **overrides})

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Self:
        """Read settings by field name; names that are no setting of the engine are left alone.

        Raises:
            ConfigError: a value cannot be used, or `model_name` is missing.
        """
        if not settings.get("model_name"):
            raise ConfigError("TAKEOFF_MODEL_NAME is not set: name a model of the hub or the folder of a local one")
        given: dict[str, Any] = {name: settings[name].strip() for name in cls.setting_names() if settings.get(name)}
        for name, parse in _PARSERS.items():
            if name in given:
                given[name] = parse(name, given[name])
        config = cls(**given)
        if config.device not in _DEVICES:
            raise _bad("device", config.device, f"use one of {', '.join(_DEVICES)}")
        if config.dtype not in _DTYPES:
            raise _bad("dtype", config.dtype, f"use one of {', '.join(_DTYPES)}")
        if config.quant_type not in _QUANT_TYPES:
            raise _bad("quant_type", config.quant_type, f"use one of {', '.join(_QUANT_TYPES)}")
        if config.page_cache_size != "auto":
            _parse_size(config.page_cache_size)
        return config

    @property
    def served_name(self) -> str:
        """The model's name as clients see it: a hub name as it is, a folder by its last part."""
        is_folder = self.model_name.startswith(("/", "./", "../", "~"))
        return Path(self.model_name).name if is_folder else self.model_name

    def page_cache_bytes(self, *, free_bytes: int, default: str) -> int:
        """The KV cache's size in bytes on a device with `free_bytes` left; `default` stands in for `auto`."""
        size = default if self.page_cache_size == "auto" else self.page_cache_size
        value, unit = _parse_size(size)
        if unit == "%":
            return int(free_bytes * value / 100)
        return int(value * _UNIT_BYTES[unit])


_UNIT_BYTES = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}


def _bad(name: str, value: str, fix: str) -> ConfigError:
    return ConfigError(f"{ENVIRONMENT_PREFIX}{name.upper()}={value!r:.200} cannot be used: {fix}")


def _integer(minimum: int, maximum: int = _MAX_INTEGER) -> Callable[[str, str], int]:
    def parse(name: str, value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise _bad(name, value, "give a whole number") from None
        if number < minimum:
            raise _bad(name, value, f"give {minimum} or more")
        if number > maximum:
            raise _bad(name, value, f"give {maximum} or less")
        return number

    return parse


def _parse_model_name(name: str, value: str) -> str:
    if len(value) > _MAX_NAME_LENGTH or not value.isprintable():
        raise _bad(name, value, "give the name of a hub's model, a folder or a GGUF file, in one line")
    return value


def _parse_switch(name: str, value: str) -> bool:
    if value.lower() not in _SWITCHES:
        raise _bad(name, value, "use true or false")
    return _SWITCHES[value.lower()]


def _parse_names(name: str, value: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in value.split(",") if part.strip())
    if any(not _SERVED_NAME.fullmatch(part) for part in names):
        raise _bad(name, value, "give names of up to 128 characters without spaces, separated by commas")
    return names


def _parse_revision(name: str, value: str) -> str:
    if not _REVISION.fullmatch(value):
        raise _bad(name, value, "give a branch, tag or commit, such as main")
    return value


_SWITCHES = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "model_name": _parse_model_name,
    "revision": _parse_revision,
    "trust_remote_code": _parse_switch,
    "served_model_name": _parse_names,
    "max_sequence_length": _integer(2),
    "max_batch_size": _integer(1),
    "max_batch_tokens": _integer(1),
    "speculative_tokens": _integer(0, _MAX_DRAFT),
    "max_pass_ms": _integer(1),
    "max_queue_size": _integer(1),
}


def _parse_size(value: str) -> tuple[float, str]:
    match = _SIZE.fullmatch(value)
    number = float(match[1]) if match else 0.0
    unit = (match[2] or "B").lower() if match else ""
    if number <= 0 or (unit == "%" and number > 100):
        raise _bad("page_cache_size", value, "give a size such as 4GiB or 500MB, or a share such as 25%")
    return number, unit
