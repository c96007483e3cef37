"""The keeper's settings, read once from the environment. Each default lives here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

_MIN_KEY_LENGTH = 16


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the key, the value and the fix in one line."""


def _address(raw: str) -> str:
    host, _, port = raw.rpartition(":")
    if not host or "/" in raw or not (port.isascii() and port.isdigit()):
        raise ValueError("host:port of Triton's gRPC endpoint, without http://")
    return raw


def _seconds(raw: str) -> float:
    expected = "a number of seconds, more than 0"
    try:
        value = float(raw)
    except ValueError:
        raise ValueError(expected) from None
    if not math.isfinite(value) or value <= 0:
        raise ValueError(expected)
    return value


def _key(raw: str) -> str:
    if raw and (len(raw) < _MIN_KEY_LENGTH or not raw.isascii() or not raw.isprintable() or " " in raw):
        raise ValueError(f"at least {_MIN_KEY_LENGTH} printable ASCII characters without spaces")
    return raw


def _port(raw: str) -> int:
    if not (raw.isascii() and raw.isdecimal() and 1 <= int(raw) <= 65535):
        raise ValueError("a port number from 1 to 65535")
    return int(raw)


def _setting(env: str, description: str, parse: Callable[[str], Any], default: str, *, is_secret: bool = False) -> Any:
    """Declare a field whose default is written as its variable would be and parsed the same way."""
    metadata = {"env": env, "description": description, "parse": parse, "default": default, "is_secret": is_secret}
    return field(default=parse(default), metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True)
class KeeperConfig:
    """Everything that can be set about the keeper. Times are in seconds."""

    triton_url: str = _setting(
        "TAKEOFF_TRITON_URL",
        "host:port of Triton's gRPC endpoint; by default 127.0.0.1 and TAKEOFF_TRITON_GRPC_PORT",
        _address,
        "127.0.0.1:8001",
    )
    run_dir: str = _setting(
        "TAKEOFF_RUN_DIR", "logs and the rendered model repository; one per running service", str, ".slipstream"
    )
    pass_timeout: float = _setting(
        "TAKEOFF_PASS_TIMEOUT_SECONDS",
        "time after which a forward pass, or a model's process that answers nothing, counts as hung; "
        "the process is then replaced",
        _seconds,
        "300",
    )
    admin_key: str = _setting(
        "TAKEOFF_ADMIN_KEY",
        "key that the admin API asks for, at least 16 characters; unset: there is no admin API",
        _key,
        "",
        is_secret=True,
    )
    admin_host: str = _setting("TAKEOFF_ADMIN_HOST", "address of the admin API", str, "127.0.0.1")
    admin_port: int = _setting("TAKEOFF_ADMIN_PORT", "port of the admin API", _port, "8004")

    @property
    def repository(self) -> Path:
        """Where the groups' folders are, as the launcher names it to Triton."""
        return Path(self.run_dir, "models")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> KeeperConfig:
        """Read the settings that are set; an empty variable counts as not set.

        Raises:
            ConfigError: a value cannot be used.
        """
        values: dict[str, Any] = {}
        for setting in fields(cls):
            env = setting.metadata["env"]
            if not (raw := environ.get(env, "").strip()):
                continue
            try:
                values[setting.name] = setting.metadata["parse"](raw)
            except ValueError as error:
                shown = "..." if setting.metadata["is_secret"] else repr(raw)
                raise ConfigError(f"{env}={shown} cannot be used: set it to {error}") from None
        return cls(**values)
