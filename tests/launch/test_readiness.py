import pytest

from setup.readiness import all_groups_ready


@pytest.mark.parametrize(
    ("body", "is_ready"),
    [
        (b"", True),
        (b'{"status": "ok"}', True),
        (b'{"groups": [{"name": "a", "state": "ready"}]}', True),
        (b'{"groups": [{"name": "a", "state": "ready"}, {"name": "b", "state": "loading"}]}', False),
    ],
)
def test_a_launch_waits_for_every_group(body: bytes, is_ready: bool) -> None:
    assert all_groups_ready(body) is is_ready
