import json
from typing import Any

from setup.audit import verdict

SOUND = {"name": "numpy", "version": "2.3.4", "vulns": []}
FLAWED = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0+cpu)"}


def audited(*packages: dict[str, Any]) -> tuple[str, int]:
    return verdict(json.dumps({"dependencies": packages}), "")


def test_what_is_known_is_told_and_what_is_not_known_too() -> None:
    assert audited(SOUND) == ("1 packages audited: no known vulnerabilities", 0)
    words, status = audited(SOUND, FLAWED, UNKNOWN)
    assert status == 1
    assert words.splitlines() == [
        UNKNOWN["skip_reason"],
        "old 1.0: PYSEC-1, fixed in 1.1 or 2.0",
        "2 packages audited: 1 known vulnerabilities",
    ]


def test_without_a_network_nothing_is_called_audited() -> None:
    """A traceback of forty lines was all that was said."""
    words, status = verdict("", "Traceback (most recent call last):\n  File ...\nConnectionError: Failed to resolve\n")
    assert status == 2
    assert words == (
        "Nothing was audited: the advisory database cannot be reached from here (ConnectionError: Failed to resolve)"
    )


def test_an_index_without_advisories_does_not_make_packages_free_of_them() -> None:
    """pip-audit said of it: No known vulnerabilities found."""
    words, status = audited(UNKNOWN, UNKNOWN)
    assert status == 2
    assert words.startswith("Nothing was audited: the index has advisories for none of 2 packages, beginning with: ")
