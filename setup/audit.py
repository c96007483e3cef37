"""Compares installed packages with the known vulnerabilities, and says honestly what it could not compare.

Usage: audit.py PIP_AUDIT SITE_PACKAGES. Exits with 0 if nothing is known against them, 1 if something is, and 2 if
nothing was compared. pip-audit by itself ends in a traceback without a network, and calls packages that an index
without advisories does not know free of vulnerabilities.
"""

import json
import subprocess
import sys
from typing import Any


def main(pip_audit: str, packages: str) -> int:
    """Run pip-audit and print its findings."""
    command = [pip_audit, "--format", "json", "--progress-spinner", "off", "--path", packages]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    words, status = verdict(run.stdout, run.stderr)
    print(words)
    return status


def verdict(output: str, complaints: str) -> tuple[str, int]:
    """What to say of pip-audit's JSON and of what it wrote beside it, and the exit status."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        reason = (complaints.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return f"Nothing was audited: the advisory database cannot be reached from here ({reason:.300})", 2
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        why = f", beginning with: {skipped[0]}" if skipped else ""
        return f"Nothing was audited: the index has advisories for none of {len(packages)} packages{why}", 2
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {' or '.join(flaw['fix_versions']) or 'none'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    summary = f"{len(packages) - len(skipped)} packages audited: {len(found) or 'no'} known vulnerabilities"
    return "\n".join([*skipped, *found, summary]), int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
