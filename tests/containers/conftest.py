"""The model that the containers serve, in a folder of its own: what `-v ~/.takeoff_cache:/code/models` would mount."""

import pytest

from benchmarks import service
from tests.end_to_end.test_service import CURL

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def model_volumes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that mount a model cache which any user may write to.

    It holds the default model where launch.sh keeps it, and the same as `gpt2` where Hugging Face's hub client does.
    """
    cache = tmp_path_factory.mktemp("models")
    cache.chmod(0o777)
    default, hub = "models/SmolLM2-135M-Instruct", "hub/models--gpt2"
    refs = cache / hub / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    model = service.default_model()
    return [
        f"--volume={cache}:/code/models",
        f"--volume={model}:/code/models/{default}:ro",
        f"--volume={model}:/code/models/{hub}/snapshots/{COMMIT}:ro",
    ]


@pytest.fixture(scope="session")
def curl_commands() -> list[str]:
    """The two commands of the README: a whole answer, a streamed one."""
    return CURL.findall((service.ROOT / "README.md").read_text())
