"""docs/promises.md is true: every test that it names is there."""

import re

from tests.launch.launched import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text()


def test_every_promise_is_shown_by_a_test():
    sources = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py") if "node_modules" not in path.parts)
    made = set(re.findall(r"^(?:async )?def (test_\w+)\(", sources, re.MULTILINE))
    rows = [row for row in PAGE.splitlines() if row.startswith("| ") and "shown by" not in row]
    assert len(rows) > 30
    for row in rows:
        named = set(re.findall(r"`(test_\w+)`", row))
        assert named, row
        assert named <= made, named - made
