"""The whole service, started once for all tests by the real ./launch.sh: real Triton, real SmolLM2, real clients."""

import os
from collections.abc import Iterator
from typing import Any

# Two test processes share the cores: OpenMP's workers must not spin for long. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import openai
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.launch.launched import Launched, launched

READY = "Ctrl-C stops it."
BATCH_SIZE = 8


class _Shares(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each test process whole files, and everything that asks the one service to the same process."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return "service" if path.startswith(("tests/clients/", "tests/end_to_end/")) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Shares:
    """See pytest-xdist. Its own groups, `loadgroup`, are not kept together under pytest 9.2."""
    return _Shares(config, log)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    run_dir = tmp_path_factory.mktemp("service")
    with launched(run_dir, TAKEOFF_MAX_BATCH_SIZE=str(BATCH_SIZE), TAKEOFF_MAX_SEQUENCE_LENGTH="2048") as launch:
        launch.wait_until_it_says(READY, seconds=300)
        yield launch


@pytest.fixture
def base_url(service: Launched) -> str:
    return f"http://localhost:{service.ports['OPENAI_PORT']}"


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as client:
        yield client
