"""Notices TAKEOFF_* variables that nothing reads, most often because they are misspelt.

Usage: misspelt.py. The README's table of settings is complete, a test sees to that; without it nothing is noticed.
They are disregarded rather than refused: an environment made for Takeoff itself may have more of them.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def main() -> None:
    """Say one line about each."""
    if README.exists():
        known = re.findall(r"^\| `(TAKEOFF_\w+)` \|", README.read_text(), re.MULTILINE)
        for line in remarks(os.environ, known):
            print(line, file=sys.stderr)


def remarks(names: Iterable[str], known: list[str]) -> list[str]:
    """A sentence about each name with our prefix that is not known."""
    return [remark(name, known) for name in sorted(names) if name.startswith("TAKEOFF_") and name not in known]


def remark(name: str, known: list[str]) -> str:
    """The sentence, with the name that was most likely meant."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    meant = f": did you mean {nearest[0]}?" if nearest else ""
    return f"launch.sh: {name} is no setting and is disregarded{meant}"


if __name__ == "__main__":
    main()
