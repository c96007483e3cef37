"""Containers' limits, from folders as Linux shows them, and from a real group where this machine allows one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llm import cgroup

GIB = 2**30


def make_group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def membership(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "cgroup"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_a_models_file_in_the_systems_cache_is_no_used_memory(tmp_path):
    make_group(
        tmp_path / "fs",
        memory__max=8 * GIB,
        memory__current=6 * GIB,
        memory__stat=f"anon {3 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}",
    )
    assert cgroup.memory_left(tmp_path / "fs", membership(tmp_path, "0::/")) == 4 * GIB


def test_the_tightest_of_the_groups_around_the_process_counts(tmp_path):
    top = tmp_path / "fs"
    make_group(top / "a", memory__max=5 * GIB, memory__current=GIB, memory__stat="inactive_file 0")
    make_group(top / "a" / "b", memory__max="max", memory__current=GIB, memory__stat="inactive_file 0")
    make_group(top / "other", memory__max=1, memory__current=1, memory__stat="inactive_file 0")
    assert cgroup.memory_left(top, membership(tmp_path, "0::/a/b")) == 4 * GIB


@pytest.mark.parametrize("path", ["/", "/docker/0123abcd"], ids=["its own", "the host's path, not to be seen here"])
def test_version_1_of_control_groups_limits_as_well(tmp_path, path):
    make_group(
        tmp_path / "fs" / "memory",
        memory__limit_in_bytes=4 * GIB,
        memory__usage_in_bytes=3 * GIB,
        memory__stat=f"cache 5\ntotal_inactive_file {GIB}",
    )
    lines = "5:cpu,cpuacct:/", f"4:memory:{path}", "0::/"
    assert cgroup.memory_left(tmp_path / "fs", membership(tmp_path, *lines)) == 2 * GIB


def test_more_used_than_allowed_leaves_nothing(tmp_path):
    make_group(tmp_path / "fs", memory__max=GIB, memory__current=2 * GIB, memory__stat="inactive_file 0")
    assert cgroup.memory_left(tmp_path / "fs", membership(tmp_path, "0::/")) == 0


@pytest.mark.parametrize(
    "limit", ["max", "", "17 apples"], ids=["no limit", "an empty file", "a file that cannot be read"]
)
def test_without_a_limit_nothing_is_said(tmp_path, limit):
    make_group(tmp_path / "fs", memory__max=limit, memory__current=GIB, memory__stat="inactive_file 0")
    assert cgroup.memory_left(tmp_path / "fs", membership(tmp_path, "0::/")) is None
    assert cgroup.memory_left(tmp_path / "nothing", membership(tmp_path, "0::/")) is None
    assert cgroup.memory_left(tmp_path / "fs", tmp_path / "no such file") is None


@pytest.mark.parametrize(("content", "cpus"), [("150000 100000", 1.5), ("max 100000", None), ("", None)])
def test_cores_worth_of_time(tmp_path, content, cpus):
    make_group(tmp_path / "fs", cpu__max=content)
    assert cgroup.num_cpus(tmp_path / "fs", membership(tmp_path, "0::/")) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(50000, 0.5), (-1, None)])
def test_cores_worth_of_time_in_version_1(tmp_path, quota, cpus):
    make_group(tmp_path / "fs" / "cpu", cpu__cfs_quota_us=quota, cpu__cfs_period_us=100000)
    assert cgroup.num_cpus(tmp_path / "fs", membership(tmp_path, "3:cpuacct,cpu:/")) == cpus


@pytest.fixture
def real_groups():
    """A group of this machine that allows 3 GiB, and one that allows the time of one core."""
    mount = Path("/sys/fs/cgroup")
    if (mount / "cgroup.controllers").exists():
        limits = {mount: {"memory.max": 3 * GIB, "cpu.max": "100000 100000"}}
    else:
        limits = {mount / "memory": {"memory.limit_in_bytes": 3 * GIB}, mount / "cpu": {"cpu.cfs_quota_us": 100000}}
    groups = [top / f"slipstream-test-{os.getpid()}" for top in limits]
    try:
        for group, files in zip(groups, limits.values(), strict=True):
            group.mkdir()
            for name, value in files.items():
                (group / name).write_text(str(value))
        yield groups
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    finally:
        for group in groups:
            if group.is_dir():
                group.rmdir()


@pytest.mark.parametrize(("threads", "expected"), [(None, "1"), ("2", "2")], ids=["as allowed", "as somebody wishes"])
def test_a_real_groups_limits_are_those_of_the_engine(real_groups, threads, expected):
    program = (
        "import os, pathlib, sys; sys.path.insert(0, sys.argv[1]);"
        "[pathlib.Path(group, 'cgroup.procs').write_text(str(os.getpid())) for group in sys.argv[2:]];"
        "from llm.memory import free_memory; import torch;"
        "print(free_memory(torch.device('cpu')), torch.get_num_threads())"
    )
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if threads:
        environ["OMP_NUM_THREADS"] = threads
    command = [sys.executable, "-c", program, Path(cgroup.__file__).resolve().parents[1], *real_groups]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environ)
    left, num_threads = run.stdout.split()
    assert 2 * GIB < int(left) <= 3 * GIB
    assert num_threads == expected
