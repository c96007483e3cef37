"""Fixtures of the tests that start the service."""

from pathlib import Path

import pytest

from benchmarks import service
from tests.launch.launched import launched


@pytest.fixture(scope="session")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's folder, made by a launch if it is not there yet."""
    folder = service.default_model()
    if not folder.exists():
        with launched(tmp_path_factory.mktemp("default-model")) as launch:
            launch.wait_until_it_says("Waiting for model primary", seconds=300)
    return folder
