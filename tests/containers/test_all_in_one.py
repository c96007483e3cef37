"""The image with both servers, started by the documentation's `docker run` with only the image's name changed."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.containers.container import Container, running

# Podman takes `--gpus` and has none to give.
COMMAND = ["--gpus=all", "--env=TAKEOFF_MODEL_NAME=gpt2", "--env=LICENSE_KEY=none"]
COMMAND += ["--env=TAKEOFF_MAX_SEQUENCE_LENGTH=1024", "--publish=3000:3000", "--publish=3003:3003"]


@pytest.fixture(scope="module")
def service(model_volumes: list[str]) -> Iterator[Container]:
    # the last spares the look for a hub
    options = ("--env=TAKEOFF_DEVICE=cpu", "--env=TAKEOFF_PAGE_CACHE_SIZE=500MB", "--env=HF_HUB_OFFLINE=1")
    with running("all-in-one", *COMMAND, *options, *model_volumes) as service:
        service.wait_until_healthy()
        yield service


def test_the_two_curl_commands_are_answered(service: Container, curl_commands: list[str]) -> None:
    whole, streamed = (subprocess.check_output(["bash", "-c", command], text=True) for command in curl_commands)
    assert len(json.loads(whole)["choices"][0]["message"]["content"]) > 20
    assert streamed.endswith("data: [DONE]\n\n")


def test_its_output_holds_the_logs_of_both_servers(service: Container) -> None:
    assert "primary    gpt2 on cpu" in service.output
    assert "the OpenAI API listens on 0.0.0.0:3003" in service.output  # the proxy's
    assert "Started HTTPService at 127.0.0.1:8000" in service.output  # Triton's
    assert "Installing" not in service.output


def test_a_stop_is_a_success(service: Container) -> None:
    assert service.stop() == 0


def test_a_gpu_that_is_not_there_ends_it_with_a_sentence(model_volumes: list[str]) -> None:
    with running("all-in-one", *COMMAND, "--env=TAKEOFF_DEVICE=cuda", *model_volumes) as service:
        assert service.exit_code() == 1
        assert "TAKEOFF_DEVICE='cuda' cannot be used" in service.output


def test_without_a_name_a_default_model_or_a_package_index_it_says_what_to_set() -> None:
    with running("all-in-one", "--env=PIP_RETRIES=0") as service:
        assert service.exit_code() == 1
        assert "set TAKEOFF_MODEL_NAME to a hub name or a local folder" in service.output
