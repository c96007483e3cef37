import pytest

from setup.misspelt import remarks

KNOWN = ["TAKEOFF_MODEL_NAME", "TAKEOFF_MAX_BATCH_SIZE", "TAKEOFF_MAX_BATCH_TOKENS", "TAKEOFF_DEVICE"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TAKEOFF_MODLE_NAME", "TAKEOFF_MODEL_NAME"),
        ("TAKEOFF_MAX_BATCHSIZE", "TAKEOFF_MAX_BATCH_SIZE"),
        ("TAKEOFF_MODEL", "TAKEOFF_MODEL_NAME"),
        ("TAKEOFF_DEVICES", "TAKEOFF_DEVICE"),
    ],
)
def test_a_misspelt_variable_is_told_the_nearest_name(name: str, meant: str) -> None:
    (line,) = remarks(["PATH", name, "TAKEOFF_DEVICE"], KNOWN)
    assert line == f"launch.sh: {name} is no setting and is disregarded: did you mean {meant}?"


def test_a_variable_like_no_other_is_noticed_without_a_guess() -> None:
    assert remarks(["TAKEOFF_REDIS_HOST"], KNOWN) == ["launch.sh: TAKEOFF_REDIS_HOST is no setting and is disregarded"]
