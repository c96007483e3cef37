"""What comes with the pinned packages is pinned too, and what is tested is what is installed everywhere."""

import re
import tomllib

from setup.lock import GROUPS, HEAD, ROOT, installed

# What torch brings along where it is built for CUDA.
_OF_CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")


def test_every_package_that_runs_has_the_version_of_the_constraints() -> None:
    """After a change of a pinned package: `make lock`."""
    head, *lines = (ROOT / "setup" / "constraints.txt").read_text().splitlines()
    assert head == HEAD
    pinned = dict(line.split("==") for line in lines)
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    found = installed(entry for group in GROUPS for entry in groups[group])
    assert {name: version for name, version in found.items() if not _OF_CUDA.fullmatch(name)} == pinned
