"""The whole service, started once for all tests by the real ./launch.sh: real Triton, real SmolLM2, real clients."""

from collections.abc import Iterator

import openai
import pytest

from tests.launch.launched import Launched, launched

READY = "Ctrl-C stops it."
BATCH_SIZE = 8


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """Listens on port 3003, as the README's commands expect."""
    run_dir = tmp_path_factory.mktemp("service")
    with launched(
        run_dir, TAKEOFF_OPENAI_PORT="3003", TAKEOFF_MAX_BATCH_SIZE=str(BATCH_SIZE), TAKEOFF_MAX_SEQUENCE_LENGTH="2048"
    ) as launch:
        launch.ports["OPENAI_PORT"] = 3003
        launch.wait_until_it_says(READY, seconds=300)
        yield launch


@pytest.fixture
def base_url(service: Launched) -> str:
    return f"http://localhost:{service.ports['OPENAI_PORT']}"


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as client:
        yield client
