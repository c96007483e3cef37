"""A setting that cannot be used is refused with its name, its value and the fix."""

import pytest
from llm.config import EngineConfig
from llm.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "half"}, r"TAKEOFF_DTYPE='half' .* auto, float32, bfloat16, float16"),
        ({"device": "tpu"}, r"TAKEOFF_DEVICE='tpu' .* auto, cpu, cuda"),
        ({"max_batch_size": "0"}, r"TAKEOFF_MAX_BATCH_SIZE='0' .* 1 or more"),
        ({"max_sequence_length": "1k"}, r"TAKEOFF_MAX_SEQUENCE_LENGTH='1k' .* whole number"),
        ({"max_sequence_length": "1"}, r"TAKEOFF_MAX_SEQUENCE_LENGTH='1' .* 2 or more"),
        ({"page_cache_size": "much"}, r"TAKEOFF_PAGE_CACHE_SIZE='much' .* 4GiB"),
        ({"page_cache_size": "0%"}, r"TAKEOFF_PAGE_CACHE_SIZE='0%' "),
        ({"page_cache_size": "9" * 400}, r"TAKEOFF_PAGE_CACHE_SIZE='9+ .* 4GiB"),
        ({"page_cache_size": "101%"}, r"TAKEOFF_PAGE_CACHE_SIZE='101%' "),
        ({"revision": "../up"}, r"TAKEOFF_REVISION='../up' .* branch, tag or commit"),
        ({"trust_remote_code": "ja"}, r"TAKEOFF_TRUST_REMOTE_CODE='ja' .* true or false"),
        ({"served_model_name": "a b,c"}, r"TAKEOFF_SERVED_MODEL_NAME='a b,c' .* without spaces"),
        ({"model_name": ""}, r"TAKEOFF_MODEL_NAME is not set"),
        ({"model_name": "gpt2\nother"}, r"TAKEOFF_MODEL_NAME='gpt2\\nother' .* in one line"),
        ({"model_name": "x" * 5000}, r"TAKEOFF_MODEL_NAME='x{199} cannot be used: .* in one line"),
        ({"speculative_tokens": "64"}, "TAKEOFF_SPECULATIVE_TOKENS='64' cannot be used: give 63 or less"),
        ({"speculative_tokens": "-1"}, "TAKEOFF_SPECULATIVE_TOKENS='-1' cannot be used: give 0 or more"),
        ({"max_pass_ms": "9" * 400}, r"TAKEOFF_MAX_PASS_MS='9{199} cannot be used: give 2147483647 or less"),
    ],
)
def test_a_bad_value_is_named_with_its_fix(settings: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        EngineConfig.from_settings({"model_name": "gpt2", **settings})


def test_the_environment_is_overridden_by_the_group_and_empty_counts_as_absent():
    environ = {"TAKEOFF_MODEL_NAME": "gpt2", "TAKEOFF_MAX_BATCH_SIZE": "3", "TAKEOFF_DEVICE": "", "OTHER": "x"}
    config = EngineConfig.from_environment(environ, overrides={"model_name": "opt"})
    assert (config.model_name, config.max_batch_size, config.device) == ("opt", 3, "auto")


@pytest.mark.parametrize(
    ("size", "expected"),
    [("4GiB", 4 * 2**30), ("500MB", 500 * 10**6), ("1024", 1024), ("25%", 250), ("1.5kib", 1536), ("auto", 100)],
)
def test_sizes_are_bytes_or_a_share_of_what_is_free(size: str, expected: int):
    config = EngineConfig.from_settings({"model_name": "gpt2", "page_cache_size": size})
    assert config.page_cache_bytes(free_bytes=1000, default="10%") == expected


@pytest.mark.parametrize(
    ("name", "served"),
    [("/models/SmolLM2", "SmolLM2"), ("./x/tiny", "tiny"), ("HuggingFaceTB/SmolLM2", "HuggingFaceTB/SmolLM2")],
)
def test_a_folder_is_shown_by_its_last_part(name: str, served: str):
    assert EngineConfig.from_settings({"model_name": name}).served_name == served
