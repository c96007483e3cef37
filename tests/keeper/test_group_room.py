"""Groups come, change and go in the repository's folder and in Triton, and a failure changes nothing."""

from pathlib import Path
from typing import Any

import pytest
from llm.errors import ConfigError
from render import read_back

from keeper.group_locks import GroupLocks
from keeper.group_room import GroupNotFoundError, GroupRoom
from keeper.load_error import LoadError
from keeper.triton import TritonError
from tests.keeper.fakes import FakeTriton

CPU = {"model_name": "gpt2", "device": "cpu"}


class Forgetful:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def forget(self, group: str) -> None:
        self._calls.append(f"forget {group}")


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton()


@pytest.fixture
def room(triton: FakeTriton, tmp_path: Path) -> GroupRoom:
    environ = {"TAKEOFF_MODEL_NAME": "other", "TAKEOFF_SERVED_MODEL_NAME": "theirs", "TAKEOFF_MAX_BATCH_SIZE": "8"}
    return GroupRoom(triton, tmp_path, GroupLocks(), Forgetful(triton.calls), environ)


def settings(repository: Path) -> dict[str, dict[str, str]]:
    return {reader.model: dict(reader.settings) for reader in read_back(repository)}


async def test_a_group_is_added_with_the_environments_settings_but_not_its_names(
    room: GroupRoom, triton: FakeTriton, tmp_path: Path
):
    assert await room.put("small", [CPU])
    assert triton.calls == ["load small"]
    assert settings(tmp_path) == {"small": {**CPU, "max_batch_size": "8"}}


async def test_replicas_are_replaced_one_after_the_other_and_what_is_too_many_goes_last(
    room: GroupRoom, triton: FakeTriton, tmp_path: Path
):
    await room.put("small", [CPU, CPU, CPU])
    triton.calls.clear()
    assert not await room.put("small", [{**CPU, "max_batch_size": 4}, CPU])
    assert triton.calls == ["load small", "load small--2", "forget small--3", "unload small--3"]
    assert {name: given["max_batch_size"] for name, given in settings(tmp_path).items()} == {
        "small": "4",
        "small--2": "8",
    }


async def test_a_group_that_does_not_load_leaves_no_trace_when_it_is_new(
    room: GroupRoom, triton: FakeTriton, tmp_path: Path
):
    triton.load_failures = [TritonError("load failed: Internal: ModelLoadError: no such model\n\nAt:\n  model.py(1)")]
    with pytest.raises(LoadError, match=r"^small did not load: no such model$"):
        await room.put("small", [CPU])
    assert triton.calls == ["load small", "forget small", "unload small"]
    assert settings(tmp_path) == {}


async def test_a_group_that_does_not_load_keeps_what_it_had_when_it_is_not(
    room: GroupRoom, triton: FakeTriton, tmp_path: Path
):
    await room.put("small", [CPU])
    triton.load_failures = [TritonError("no memory")]
    with pytest.raises(LoadError, match="no memory"):
        await room.put("small", [{**CPU, "model_name": "huge"}])
    assert settings(tmp_path)["small"]["model_name"] == "gpt2"
    assert "unload small" not in triton.calls


async def test_a_replica_that_does_not_load_takes_those_before_it_back(
    room: GroupRoom, triton: FakeTriton, tmp_path: Path
):
    """The first replica stayed: one of two with other settings, or a new group that had been refused."""
    await room.put("small", [CPU, CPU])
    before = settings(tmp_path)
    for group in ("small", "new"):
        triton.calls.clear()
        triton.load_failures = [None, TritonError("no memory")]
        with pytest.raises(LoadError, match="no memory"):
            await room.put(group, [{**CPU, "max_sequence_length": 99}] * 2)
        assert settings(tmp_path) == before
        undone = ["load small"] if group == "small" else ["forget new", "unload new"]
        assert triton.calls[-len(undone) :] == undone


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "reader 1: model_name is missing"),
        ({**CPU, "max_batch": 4}, "'max_batch' is no setting: the nearest one is 'max_batch_size'"),
        ({**CPU, "max_batch_size": 0}, "reader 1: max_batch_size='0' cannot be used: give 1 or more"),
        ({**CPU, "consumer_group": "other"}, "consumer_group='other' is not 'small'"),
        ({**CPU, "served_model_name": "primary"}, "'primary' is a name of consumer_group 'primary' already"),
        ({**CPU, "consumer_group": None, "device": "x"}, "device='x' cannot be used"),
        ({**CPU, "model_name": ["a"]}, "give one plain value"),
    ],
)
async def test_a_setting_that_cannot_be_used_changes_nothing(
    room: GroupRoom, triton: FakeTriton, tmp_path: Path, entry: dict[str, Any], words: str
):
    await room.put("primary", [CPU])
    before = settings(tmp_path)
    with pytest.raises(ConfigError, match=words):
        await room.put("small", [entry])
    assert settings(tmp_path) == before
    assert triton.calls == ["load primary"]


@pytest.mark.parametrize("name", ["../up", "a b", "small--2", ""])
async def test_a_name_that_cannot_be_a_folders_is_refused(room: GroupRoom, name: str):
    with pytest.raises(ConfigError, match="cannot be used"):
        await room.put(name, [CPU])


async def test_a_removed_group_is_forgotten_before_it_is_unloaded(room: GroupRoom, triton: FakeTriton, tmp_path: Path):
    await room.put("small", [CPU, CPU])
    triton.calls.clear()
    await room.remove("small")
    assert triton.calls == ["forget small", "unload small", "forget small--2", "unload small--2"]
    assert settings(tmp_path) == {}
    with pytest.raises(GroupNotFoundError):
        await room.remove("small")
