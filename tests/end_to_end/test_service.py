"""The service from outside: the README's own commands, Triton's endpoints, clients that leave, an orderly stop."""

import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from tests.conftest import BATCH_SIZE, READY
from tests.engine.tiny_models import save_model
from tests.launch.launched import ROOT, Launched, launched

CURL = re.compile(r"^curl --location 'http://localhost:3003.*?\}'$", re.MULTILINE | re.DOTALL)


# The README's commands set no bound: 18 of 256 such answers were as long as the context, 2,023 tokens, which takes a
# minute on two free cores and three beside another test's loops.
LONGEST_ANSWER_SECONDS = 600


def run_curl(command: str) -> str:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=LONGEST_ANSWER_SECONDS, check=True
    ).stdout


def test_the_readmes_two_curl_commands_answer_once_whole_and_once_streamed(service: Launched):
    address = f"http://localhost:{service.ports['OPENAI_PORT']}"
    readme = (ROOT / "README.md").read_text()
    whole, streamed = (command.replace("http://localhost:3003", address) for command in CURL.findall(readme))
    answer = json.loads(run_curl(whole))
    assert answer["object"] == "chat.completion"
    assert len(answer["choices"][0]["message"]["content"]) > 20
    events = run_curl(streamed).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert len(chunks) > 3
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_tritons_own_generate_endpoints_work_without_the_proxy(service: Launched):
    base = f"http://localhost:{service.ports['TRITON_HTTP_PORT']}/v2/models/primary"
    sampling = json.dumps({"max_tokens": 8, "temperature": 0})
    body = json.dumps({"text_input": "The capital of France is", "sampling_parameters": sampling})
    whole = run_curl(f"curl -s {base}/generate -d '{body}'")
    text = json.loads(whole)["text_output"]
    assert "Paris" in text
    streamed = run_curl(
        f"""curl -sN {base}/generate_stream -d '{{"text_input": "The capital of France is", "stream": true, """
        f""""parameters": {{"max_tokens": 8, "temperature": 0}}}}'"""
    )
    events = [json.loads(event.removeprefix("data: ")) for event in streamed.strip().split("\n\n")]
    assert "".join(event["text_output"] for event in events) == text
    assert len(events) > 1


def test_tritons_endpoint_refuses_bad_input_in_the_same_words(service: Launched):
    base = f"http://localhost:{service.ports['TRITON_HTTP_PORT']}/v2/models/primary"
    for body, param in (
        ({}, "messages"),
        ({"text_input": "x", "parameters": {"temperature": 5}}, "temperature"),
        ({"messages": "nonsense"}, "messages"),
        ({"text_input": "word " * 5000}, "messages"),
        ({"text_input": ""}, "text_input"),
        ({"messages": '[{"role": "user", "content": "\\ud800"}]'}, "messages"),
    ):
        event = json.loads(httpx.post(f"{base}/generate", json=body, timeout=30).json()["event"])
        assert event["error"]["kind"] == "invalid_request"
        assert event["error"]["param"] == param


@pytest.mark.parametrize(
    "path", ["repository/models/primary/unload", "repository/index", "systemsharedmemory/unregister", "logging"]
)
def test_a_web_page_cannot_manage_triton(service: Launched, path: str):
    """It could unload the model of whoever opened it: a plain POST asks nobody, but a header of its own would."""
    triton = f"http://127.0.0.1:{service.ports['TRITON_HTTP_PORT']}/v2"
    page = {"origin": "https://a.example", "content-type": "text/plain"}
    assert httpx.post(f"{triton}/{path}", content=b"", headers=page, timeout=30).status_code == 403
    assert httpx.get(f"{triton}/models/primary/ready").status_code == 200


def test_tritons_metrics_show_the_models_requests(service: Launched, client: openai.OpenAI):
    def count() -> float:
        metrics = httpx.get(f"http://localhost:{service.ports['TRITON_METRICS_PORT']}/metrics").text
        found = re.search(r'nv_inference_request_success\{model="primary",version="1"\} (\S+)', metrics)
        assert found
        return float(found[1])

    before = count()
    client.chat.completions.create(model="primary", messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
    assert count() > before  # pulses count as well


def test_health_tells_the_process_from_the_groups(base_url: str):
    assert httpx.get(f"{base_url}/health").status_code == 200
    ready = httpx.get(f"{base_url}/health/ready")
    assert ready.status_code == 200
    assert ready.json()["groups"][0]["name"] == "primary"


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_free_their_places_within_a_second(base_url: str, client: openai.OpenAI, stream: bool):
    body = {
        "model": "primary",
        "messages": [{"role": "user", "content": "Count from 1 to 1000."}],
        "stream": stream,
        "temperature": 0,
        "logit_bias": None,
        "ignore_eos": True,  # to the end of the context
    }

    def leave(_: int) -> None:
        # Long enough to be in the batch, far too short for the answer.
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{base_url}/v1/chat/completions", json=body, timeout=4)

    def leave_stream(_: int) -> None:
        with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=body, timeout=60) as response:
            next(response.iter_raw())

    with ThreadPoolExecutor(BATCH_SIZE) as clients:
        list(clients.map(leave_stream if stream else leave, range(BATCH_SIZE)))
    started = time.monotonic()
    client.chat.completions.create(model="primary", messages=[{"role": "user", "content": "Hi"}], max_tokens=1)
    # All places were taken by answers of many seconds: this one was admitted because they were given up.
    assert time.monotonic() - started < 2


def test_two_groups_are_served_and_stopping_lets_running_answers_finish(tmp_path: Path):
    tiny = save_model("gpt2", tmp_path / "tiny-gpt2")
    config = tmp_path / "config.yaml"
    config.write_text(
        "takeoff:\n  readers_config:\n"
        f"    first: {{model_name: {tiny}, consumer_group: primary, device: cpu}}\n"
        f"    second: {{model_name: {tiny}, consumer_group: other, device: cpu, max_sequence_length: 64}}\n"
    )
    with launched(tmp_path, TAKEOFF_CONFIG_FILE=str(config), TAKEOFF_PROXY_WORKERS="2") as launch:
        launch.wait_until_it_says(READY)
        assert "no chat template" in (tmp_path / "triton.log").read_text()
        base = f"http://localhost:{launch.ports['OPENAI_PORT']}"
        models = httpx.get(f"{base}/v1/models").json()["data"]
        assert {model["id"]: model["max_model_len"] for model in models} == {"primary": 256, "other": 64}
        body = {"model": "other", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        for group in ("primary", "other"):
            answer = httpx.post(f"{base}/v1/chat/completions", json={**body, "model": group}, timeout=60)
            assert answer.status_code == 200
        missing = httpx.post(f"{base}/v1/chat/completions", json={**body, "model": "third"}, timeout=60).json()
        assert "'other', 'primary'" in missing["error"]["message"]

        endless = {**body, "model": "primary", "max_tokens": 240, "n": 8, "stream": True, "seed": 1}
        with httpx.stream("POST", f"{base}/v1/chat/completions", json=endless, timeout=60) as response:
            parts = response.iter_text()
            first = next(parts)
            os.kill(launch.process.pid, signal.SIGTERM)
            rest = "".join(parts)
        assert (first + rest).endswith("data: [DONE]\n\n")
        assert launch.exit_code(60) == 0
        assert launch.processes() == []
