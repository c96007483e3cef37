"""Clients that we did not write, each by a script of its own: they all get the same answers, and their own errors."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.launch.launched import ROOT

HERE = Path(__file__).parent
VENV = ROOT / ".clients" / "bin"
CLIENTS = {
    "langchain": [VENV / "python", HERE / "scripts" / "langchain_client.py"],
    "llama_index": [VENV / "python", HERE / "scripts" / "llama_index_client.py"],
    "litellm": [VENV / "python", HERE / "scripts" / "litellm_client.py"],
    "openai for node": ["node", HERE / "node" / "openai_client.mjs"],
    "vercel ai": ["node", HERE / "node" / "vercel_client.mjs"],
}
QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is inference server?"},
]
GREEDY = {"model": "primary", "temperature": 0, "max_tokens": 16}


def run(*command: Any) -> str:
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="session")
def expected(service: Any) -> dict[str, Any]:
    """The answers to a client that is nobody's."""
    url = f"http://127.0.0.1:{service.ports['OPENAI_PORT']}/v1"

    def ask(messages: list[dict[str, str]]) -> Any:
        answer = httpx.post(f"{url}/chat/completions", json={**GREEDY, "messages": messages}, timeout=60)
        return answer.raise_for_status().json()

    first = ask(QUESTION)
    text = first["choices"][0]["message"]["content"]
    turns = [*QUESTION, {"role": "assistant", "content": text}, {"role": "user", "content": "Say it again."}]
    prompt = {**GREEDY, "prompt": "The capital of France is"}
    completion = httpx.post(f"{url}/completions", json=prompt, timeout=60).raise_for_status().json()
    return {
        "text": text,
        "streamed": text,
        "async": text,
        "batch": [text, text],
        "response": text,
        "response_streamed": text,
        "turn": ask(turns)["choices"][0]["message"]["content"],
        "completion": completion["choices"][0]["text"],
        "completion_tokens": first["usage"]["completion_tokens"],
        "streamed_completion_tokens": first["usage"]["completion_tokens"],
        "prompt_tokens": first["usage"]["prompt_tokens"],
        "response_prompt_tokens": first["usage"]["prompt_tokens"],
        "finish_reason": "length",
        "error": "model_not_found",
    }


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_gets_the_same_answers_as_any_other(name: str, base_url: str, expected: dict[str, Any]):
    got = json.loads(run(*CLIENTS[name], f"{base_url}/v1").splitlines()[-1])
    assert {"text", "streamed", "turn", "error"} <= set(got)
    assert got == {key: expected[key] for key in got}


def test_simon_willisons_llm_gets_them_too(base_url: str, expected: dict[str, Any]):
    lines = run(HERE / "scripts" / "llm_client.sh", f"{base_url}/v1", VENV / "llm").splitlines()
    got = dict(line.split(": ", 1) for line in lines)
    for key in ("text", "streamed", "turn"):
        assert got[key].split() == expected[key].split(), key
    assert "nobody" in got["error"]


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_an_agent_calls_a_tool_and_uses_what_it_says(base_url: str, api: str):
    script = HERE / "scripts" / "openai_agents_client.py"
    got = json.loads(run(VENV / "python", script, f"{base_url}/v1", api).splitlines()[-1])
    assert got["kinds"][:2] == ["tool_call_item", "tool_call_output_item"]
    assert got["kinds"][-1] == "message_output_item"
    assert len(got["called"]) >= 2  # whole and streamed
    assert all(type(call["city"]) is str and type(call["days"]) is int for call in got["called"])
    assert all("25 degrees" in answer for answer in got["answers"])


def test_takeoffs_own_client_gets_them_from_the_native_port(service: Any, expected: dict[str, Any]):
    script = HERE / "scripts" / "takeoff_native_client.py"
    got = json.loads(run(VENV / "python", script, service.ports["PORT"]).splitlines()[-1])
    text = expected["completion"]
    assert [got["completion"], got["streamed"], got["async"], *got["batch"]] == [text] * 5
    assert got["generated_tokens"] == 32
    assert len(got["number"]) == 3
    assert got["number"].isdecimal()
    assert got["error"] == "model_not_found"
