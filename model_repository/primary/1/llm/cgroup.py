"""What a container's limits leave to this process: control groups of Linux, version 2 and version 1."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def memory_left(mount: Path = _MOUNT, membership: Path = _MEMBERSHIP) -> int | None:
    """Bytes that the process's groups still allow it; None without a limit.

    A model's file stays in the system's cache after it was read, and counts as used. It is given up before a process is
    killed, so it counts as left here, as it does for Kubernetes and `docker stats`.
    """
    left = _smallest(_groups(mount, membership, "memory"), _memory_v2, _memory_v1)
    return None if left is None else max(0, int(left))


def num_cpus(mount: Path = _MOUNT, membership: Path = _MEMBERSHIP) -> float | None:
    """Cores' worth of time that the process's groups allow it, such as 1.5; None without a limit."""
    return _smallest(_groups(mount, membership, "cpu"), _cpus_v2, _cpus_v1)


def _smallest(groups: Iterable[Path], *readers: Callable[[Path], float]) -> float | None:
    """What the tightest group leaves. A reader finds nothing in a group of the other version."""
    limits = []
    for group, read in product(groups, readers):
        # no such file here, or the limit is the word "max"
        with suppress(OSError, ValueError):
            limits.append(read(group))
    return min(limits, default=None)


def _groups(mount: Path, membership: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's own group and of those around it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount  # version 2 names none
        # In a container the path may be the host's, of which only the top can be seen: it is the container's own.
        own = top / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _memory_v2(group: Path) -> int:
    used = _number(group / "memory.current") - _stat(group, "inactive_file")
    return _number(group / "memory.max") - used


def _memory_v1(group: Path) -> int:
    used = _number(group / "memory.usage_in_bytes") - _stat(group, "total_inactive_file")
    return _number(group / "memory.limit_in_bytes") - used


def _cpus_v2(group: Path) -> float:
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _cpus_v1(group: Path) -> float:
    quota = _number(group / "cpu.cfs_quota_us")
    if quota < 0:
        raise ValueError("no limit")
    return quota / _number(group / "cpu.cfs_period_us")


def _number(file: Path) -> int:
    return int(file.read_text())


def _stat(group: Path, key: str) -> int:
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(stat.get(key, 0))
