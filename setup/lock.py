"""Prints the version of every package that runs, with all that the pinned ones bring along, as constraints for pip.

Usage: lock.py, in the environment that was tested. `make lock` keeps the output in setup/constraints.txt, by which
every installation goes. What torch needs for CUDA is not in it: torch's own metadata pins that.
"""

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("engine", "proxy", "triton")
HEAD = "# Made by `make lock` from what was tested; see setup/lock.py."


def main() -> None:
    """Print the constraints."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    print(HEAD)
    for name, version in sorted(installed(entry for group in GROUPS for entry in groups[group]).items()):
        print(f"{name}=={version}")


def installed(requirements: Iterable[str]) -> dict[str, str]:
    """The versions of these packages and of all that they need, by name; what is not installed is left out."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(entry) for entry in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        extras = ["", *sorted(wanted.extras)]
        for extra in extras:
            if (name, extra) not in seen:
                seen.add((name, extra))
                try:
                    waiting.extend(_needs(name, extra))
                    # a build of the same version for another device, such as +cpu, counts as the same
                    found[name] = Version(distribution(name).version).public
                except PackageNotFoundError:
                    continue
    return found


def _needs(name: str, extra: str) -> Iterator[Requirement]:
    for entry in distribution(name).requires or ():
        requirement = Requirement(entry)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


if __name__ == "__main__":
    main()
