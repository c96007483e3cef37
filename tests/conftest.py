"""The whole service, started once for all tests by the real ./launch.sh: real Triton, real SmolLM2, real clients."""

import os
from collections.abc import Iterator

# Two test processes share the cores: OpenMP's workers must not spin for long. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import openai
import pytest

from tests.launch.launched import Launched, launched

READY = "Ctrl-C stops it."
BATCH_SIZE = 8


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what needs the service in one test process, and launches of its own beside it in another."""
    for item in items:
        folder = item.path.parent.name
        if "service" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("service"))
        elif folder not in ("engine", "proxy", "model_repository"):
            item.add_marker(pytest.mark.xdist_group(folder))


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
