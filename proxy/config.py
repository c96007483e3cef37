"""The proxy's settings, read once from the environment before anything starts.

Each setting is a field of `ProxyConfig` that carries its variable's name and its meaning; each default lives
here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the key, the value and the fix in one line."""


def _text(raw: str) -> str:
    if not raw.strip():
        raise ValueError("text that is not empty")
    return raw.strip()


def _address(raw: str) -> str:
    host, separator, port = raw.strip().rpartition(":")
    if not separator or not host or "/" in raw or not port.isascii() or not port.isdigit():
        raise ValueError("host:port of Triton's gRPC endpoint, without http://")
    _port(port)
    return raw.strip()


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        expected = f"a whole number from {low} to {high}"
        try:
            value = int(raw)
        except ValueError:
            raise ValueError(expected) from None
        if not low <= value <= high:
            raise ValueError(expected)
        return value

    return parse


def _seconds(*, zero: bool) -> Callable[[str], float]:
    def parse(raw: str) -> float:
        expected = f"a number of seconds, {'0 or more' if zero else 'more than 0'}"
        try:
            value = float(raw)
        except ValueError:
            raise ValueError(expected) from None
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise ValueError(expected)
        return value

    return parse


def _list(raw: str) -> tuple[str, ...]:
    values = tuple(value.strip() for value in raw.split(",") if value.strip())
    if any(" " in value for value in values):
        raise ValueError("values without spaces, separated by commas")
    return values


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw.strip() not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return raw.strip()

    return parse


_port = _integer(1, 65535)


def _port_or_none(raw: str) -> int:
    return 0 if raw.strip() in ("", "0") else _port(raw)


def _setting(
    env: str,
    description: str,
    parse: Callable[[str], Any],
    default: str,
    *,
    is_secret: bool = False,
    takes_empty: bool = False,
) -> Any:
    """Declare a field whose default is written as its variable would be and parsed the same way.

    An empty variable counts as not set, unless the setting `takes_empty`.
    """
    metadata = {
        "env": env,
        "description": description,
        "parse": parse,
        "default": default,
        "is_secret": is_secret,
        "takes_empty": takes_empty,
    }
    return field(default=parse(default), metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Everything that can be set about the proxy. Times are in seconds."""

    host: str = _setting("TAKEOFF_HOST", "address to listen on", _text, "127.0.0.1")
    port: int = _setting("TAKEOFF_OPENAI_PORT", "port of the OpenAI API", _port, "3003")
    native_port: int = _setting(
        "TAKEOFF_PORT",
        "port of Takeoff's native API and of the page for people; 0 or empty: neither",
        _port_or_none,
        "3000",
        takes_empty=True,
    )
    triton_grpc_port: int = _setting(
        "TAKEOFF_TRITON_GRPC_PORT", "Triton's gRPC port, when Triton runs on this machine", _port, "8001"
    )
    triton_url: str = _setting(
        "TAKEOFF_TRITON_URL",
        "host:port of Triton's gRPC endpoint; by default 127.0.0.1 and TAKEOFF_TRITON_GRPC_PORT",
        _address,
        "127.0.0.1:8001",
    )
    run_dir: str = _setting(
        "TAKEOFF_RUN_DIR", "logs and the rendered model repository; one per running service", _text, ".slipstream"
    )
    workers: int = _setting("TAKEOFF_PROXY_WORKERS", "proxy processes", _integer(1, 256), "1")
    api_keys: tuple[str, ...] = _setting(
        "TAKEOFF_API_KEYS",
        "keys, separated by commas, one of which every request but `/health*` must bring",
        _list,
        "",
        is_secret=True,
    )
    api_keys_file: str = _setting(
        "TAKEOFF_API_KEYS_FILE",
        "file with more keys, one a line, with a name and a space before it or without; read again when it changes",
        str.strip,
        "",
    )
    max_requests_per_minute: int = _setting(
        "TAKEOFF_MAX_REQUESTS_PER_MINUTE",
        "requests that one key may begin per minute, in each proxy process; 0 is no limit",
        _integer(0, 10**9),
        "0",
    )
    max_concurrent_requests: int = _setting(
        "TAKEOFF_MAX_CONCURRENT_REQUESTS",
        "requests of one key that are answered at once, in each proxy process; 0 is no limit",
        _integer(0, 10**9),
        "0",
    )
    cors_origins: tuple[str, ...] = _setting(
        "TAKEOFF_CORS_ORIGINS",
        "origins of web pages that may use the API, separated by commas; `*` for all",
        _list,
        "",
    )
    max_messages: int = _setting("TAKEOFF_MAX_MESSAGES", "most messages in one chat", _integer(1, 10**6), "4096")
    max_choices: int = _setting("TAKEOFF_MAX_CHOICES", "highest accepted `n`", _integer(1, 128), "8")
    max_prompts: int = _setting(
        "TAKEOFF_MAX_PROMPTS", "highest accepted number of prompts in one completion", _integer(1, 1024), "64"
    )
    max_body_bytes: int = _setting(
        "TAKEOFF_MAX_BODY_BYTES", "largest accepted request body, in bytes", _integer(1, 2**30), "16777216"
    )
    sse_keep_alive: float = _setting(
        "TAKEOFF_SSE_KEEP_ALIVE_SECONDS",
        "silence in a stream after which a comment is sent",
        _seconds(zero=False),
        "15",
    )
    request_timeout: float = _setting(
        "TAKEOFF_REQUEST_TIMEOUT_SECONDS",
        "silence after which a request that is still being received is refused",
        _seconds(zero=False),
        "60",
    )
    response_timeout: float = _setting(
        "TAKEOFF_RESPONSE_TIMEOUT_SECONDS",
        "longest time one answer may take, streamed or not; 0 is no limit",
        _seconds(zero=True),
        "0",
    )
    pass_timeout: float = _setting(
        "TAKEOFF_PASS_TIMEOUT_SECONDS",
        "time after which a forward pass, or a model's process that answers nothing, counts as hung; "
        "the process is then replaced",
        _seconds(zero=False),
        "300",
    )
    shutdown_timeout: float = _setting(
        "TAKEOFF_SHUTDOWN_TIMEOUT_SECONDS",
        "how long running answers may go on after SIGTERM",
        _seconds(zero=True),
        "30",
    )
    log_format: str = _setting(
        "TAKEOFF_LOG_FORMAT",
        "`text` for people or `json`, in the proxy's and the models' logs",
        _one_of("text", "json"),
        "text",
    )
    log_level: str = _setting(
        "TAKEOFF_LOG_LEVEL",
        "`debug`, `info`, `warning` or `error`: what stands in these logs; `info` has a line for each request",
        _one_of("debug", "info", "warning", "error"),
        "info",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> ProxyConfig:
        """Read the settings that are set; an empty variable counts as not set where emptiness means nothing.

        Raises `ConfigError` for the first value that cannot be used.
        """
        values: dict[str, Any] = {}
        for setting in fields(cls):
            env, raw = setting.metadata["env"], environ.get(setting.metadata["env"])
            if raw is None or not (raw or setting.metadata["takes_empty"]):
                continue
            try:
                values[setting.name] = setting.metadata["parse"](raw)
            except ValueError as error:
                shown = "..." if setting.metadata["is_secret"] else repr(raw)
                raise ConfigError(f"{env}={shown} cannot be used: set it to {error}") from None
        if "triton_url" not in values and "triton_grpc_port" in values:
            values["triton_url"] = f"127.0.0.1:{values['triton_grpc_port']}"
        return cls(**values)
