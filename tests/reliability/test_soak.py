"""A soak of seconds on a tiny model; `make soak` runs for hours."""

from pathlib import Path

from tests.conftest import READY
from tests.launch.launched import launched
from tests.reliability.soak import KINDS, soak, tiny_model

_NUM_REQUESTS = 1000
# So short a run cannot tell growth that ends from growth that goes on.
_RESIDENT_SHARE = 0.2


def test_mixed_requests_leave_nothing_behind(tmp_path: Path) -> None:
    settings = {"MODEL_NAME": str(tiny_model(tmp_path / "model")), "DEVICE": "cpu", "PAGE_CACHE_SIZE": "50MB"}
    with launched(tmp_path, **{f"TAKEOFF_{name}": value for name, value in settings.items()}) as launch:
        launch.wait_until_it_says(READY, seconds=300)
        report = soak(launch, _NUM_REQUESTS)
    assert report.complaints(_RESIDENT_SHARE) == []
    served = {f"{kind} {'400' if kind == 'refused' else '200'}" for kind in KINDS if kind != "left"}
    assert report.outcomes.keys() - {"left 200"} == served | {"left"}
