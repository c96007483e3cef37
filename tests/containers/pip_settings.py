"""Writes this machine's pip settings, from wherever they are set, as one pip.conf, and names the folders they need.

Usage: pip_settings.py FILE. The folders are printed, one a line.
"""

import subprocess
import sys
from pathlib import Path

# What matters to an installation; `default-timeout` is how a variable's name reads.
NAMES = ("index-url", "extra-index-url", "find-links", "trusted-host", "cert", "timeout", "default-timeout")


def main(file: Path) -> None:
    """Read them from `pip config list`, of whose lines the later ones win."""
    settings = dict(pip_settings())
    lines = [f"{name.replace('default-', '')} = {value}\n" for name, value in settings.items()]
    file.write_text("[global]\n" + "".join(lines))
    for value in settings.values():
        path = Path(value)
        if path.is_absolute() and path.exists():
            sys.stdout.write(f"{path if path.is_dir() else path.parent}\n")


def pip_settings() -> list[tuple[str, str]]:
    """Names and values, the weaker ones first."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pairs = (line.partition("=") for line in listing.splitlines())
    named = ((key.rpartition(".")[2], value.strip("'")) for key, _, value in pairs)
    return [(name, value) for name, value in named if name in NAMES]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
