from pathlib import Path

import pytest

from keeper.config import ConfigError, KeeperConfig


def test_what_is_set_is_read_and_an_empty_value_is_not_set():
    config = KeeperConfig.from_env(
        {"TAKEOFF_RUN_DIR": "/run/a", "TAKEOFF_PASS_TIMEOUT_SECONDS": "2.5", "TAKEOFF_TRITON_URL": ""}
    )
    assert config == KeeperConfig("127.0.0.1:8001", "/run/a", 2.5)
    assert config.repository == Path("/run/a/models")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAKEOFF_PASS_TIMEOUT_SECONDS", "0"),
        ("TAKEOFF_PASS_TIMEOUT_SECONDS", "nan"),
        ("TAKEOFF_PASS_TIMEOUT_SECONDS", "soon"),
        ("TAKEOFF_TRITON_URL", "http://triton:8001"),
        ("TAKEOFF_TRITON_URL", "triton"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_key(name: str, value: str):
    with pytest.raises(ConfigError, match=f"{name}='{value}' cannot be used"):
        KeeperConfig.from_env({name: value})
