"""The folder `primary` as it lies in the source tree is a model that any Triton can serve, without launch.sh."""

from pathlib import Path

import httpx

from tests.engine.tiny_models import save_model
from tests.launch.bare_triton import bare_triton
from tests.launch.launched import ROOT


def test_the_source_trees_repository_is_served_by_a_bare_triton_that_is_told_of_the_model_by_the_environment(
    tmp_path: Path,
):
    tiny = str(save_model("llama", tmp_path / "model"))
    with bare_triton(ROOT / "model_repository", ["primary"], tmp_path / "log", TAKEOFF_MODEL_NAME=tiny) as triton:
        triton.wait_until_ready("primary")
        body = {"text_input": "Hi", "parameters": {"max_tokens": 3, "temperature": 0}}
        answer = httpx.post(f"{triton.url}/models/primary/generate", json=body, timeout=60)
    assert answer.status_code == 200
    assert '"finish_reason"' in answer.json()["event"]
