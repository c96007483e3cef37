"""Settings come from the environment; a wrong one is refused with key, value and fix."""

from __future__ import annotations

from dataclasses import fields

import pytest

from proxy.config import ConfigError, ProxyConfig


def test_an_empty_environment_gives_the_defaults() -> None:
    assert ProxyConfig.from_env({}) == ProxyConfig()
    assert ProxyConfig.from_env({"TAKEOFF_HOST": "", "PATH": "x"}) == ProxyConfig()


def test_every_setting_can_be_set() -> None:
    config = ProxyConfig.from_env(
        {
            "TAKEOFF_HOST": "0.0.0.0",
            "TAKEOFF_OPENAI_PORT": "4000",
            "TAKEOFF_PORT": "4001",
            "TAKEOFF_TRITON_GRPC_PORT": "9001",
            "TAKEOFF_TRITON_URL": "triton:9002",
            "TAKEOFF_PROXY_WORKERS": "4",
            "TAKEOFF_API_KEYS": "sk-one, sk-two,",
            "TAKEOFF_API_KEYS_FILE": "/keys",
            "TAKEOFF_MAX_REQUESTS_PER_MINUTE": "60",
            "TAKEOFF_MAX_CONCURRENT_REQUESTS": "7",
            "TAKEOFF_CORS_ORIGINS": "https://a.example",
            "TAKEOFF_MAX_MESSAGES": "9",
            "TAKEOFF_MAX_CHOICES": "2",
            "TAKEOFF_MAX_PROMPTS": "3",
            "TAKEOFF_MAX_BODY_BYTES": "1000",
            "TAKEOFF_SSE_KEEP_ALIVE_SECONDS": "1.5",
            "TAKEOFF_REQUEST_TIMEOUT_SECONDS": "20",
            "TAKEOFF_RESPONSE_TIMEOUT_SECONDS": "600",
            "TAKEOFF_SHUTDOWN_TIMEOUT_SECONDS": "5",
        }
    )
    assert config == ProxyConfig(
        host="0.0.0.0",
        port=4000,
        native_port=4001,
        triton_grpc_port=9001,
        triton_url="triton:9002",
        workers=4,
        api_keys=("sk-one", "sk-two"),
        api_keys_file="/keys",
        max_requests_per_minute=60,
        max_concurrent_requests=7,
        cors_origins=("https://a.example",),
        max_messages=9,
        max_choices=2,
        max_prompts=3,
        max_body_bytes=1000,
        sse_keep_alive=1.5,
        request_timeout=20.0,
        response_timeout=600.0,
        shutdown_timeout=5.0,
    )


@pytest.mark.parametrize("value", ["0", ""])
def test_the_native_port_can_be_switched_off(value: str) -> None:
    assert ProxyConfig.from_env({}).native_port == 3000
    assert ProxyConfig.from_env({"TAKEOFF_PORT": value}).native_port == 0


def test_keys_are_never_shown() -> None:
    assert "sk-one" not in repr(ProxyConfig(api_keys=("sk-one",)))
    with pytest.raises(ConfigError) as refusal:
        ProxyConfig.from_env({"TAKEOFF_API_KEYS": "sk-one sk-two"})
    assert "sk-one" not in str(refusal.value)


def test_tritons_port_is_part_of_its_default_url() -> None:
    assert ProxyConfig.from_env({"TAKEOFF_TRITON_GRPC_PORT": "9001"}).triton_url == "127.0.0.1:9001"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TAKEOFF_HOST", "  "),
        ("TAKEOFF_OPENAI_PORT", "0"),
        ("TAKEOFF_OPENAI_PORT", "65536"),
        ("TAKEOFF_OPENAI_PORT", "3003.5"),
        ("TAKEOFF_PORT", "-1"),
        ("TAKEOFF_PORT", "off"),
        ("TAKEOFF_TRITON_GRPC_PORT", "x"),
        ("TAKEOFF_TRITON_URL", "http://triton:8001"),
        ("TAKEOFF_TRITON_URL", "triton"),
        ("TAKEOFF_TRITON_URL", "triton:"),
        ("TAKEOFF_TRITON_URL", "triton:99999"),
        ("TAKEOFF_PROXY_WORKERS", "0"),
        ("TAKEOFF_PROXY_WORKERS", "-1"),
        ("TAKEOFF_MAX_CHOICES", "0"),
        ("TAKEOFF_MAX_BODY_BYTES", "16M"),
        ("TAKEOFF_SSE_KEEP_ALIVE_SECONDS", "0"),
        ("TAKEOFF_SSE_KEEP_ALIVE_SECONDS", "nan"),
        ("TAKEOFF_RESPONSE_TIMEOUT_SECONDS", "-1"),
        ("TAKEOFF_RESPONSE_TIMEOUT_SECONDS", "inf"),
        ("TAKEOFF_SHUTDOWN_TIMEOUT_SECONDS", "soon"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ProxyConfig.from_env({key: value})
    message = str(caught.value)
    assert message.startswith(f"{key}={value!r} cannot be used: set it to ")
    assert "\n" not in message


def test_every_setting_says_what_it_is() -> None:
    for setting in fields(ProxyConfig):
        assert setting.metadata["env"].startswith("TAKEOFF_")
        assert setting.metadata["description"]
        assert setting.metadata["parse"](setting.metadata["default"]) == setting.default
