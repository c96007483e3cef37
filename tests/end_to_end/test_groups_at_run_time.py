"""Groups come, are replaced and go on the running service, and nobody who asks for something notices."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import READY
from tests.engine.tiny_models import save_model
from tests.launch.launched import Launched, free_ports, launched

KEY = "a-key-for-the-tests"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = save_model("gpt2", tmp_path_factory.mktemp("tiny") / "gpt2")
    return {"model_name": str(folder), "device": "cpu", "page_cache_size": "20MB"}


@pytest.fixture(scope="module")
def service_of_tiny(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Iterator[Launched]:
    (port,) = free_ports(1)
    settings = {f"TAKEOFF_{name.upper()}": str(value) for name, value in tiny.items()}
    run_dir = tmp_path_factory.mktemp("run-time")
    with launched(run_dir, TAKEOFF_ADMIN_KEY=KEY, TAKEOFF_ADMIN_PORT=str(port), **settings) as launch:
        launch.ports["ADMIN_PORT"] = port
        launch.wait_until_it_says(READY, seconds=300)
        yield launch


@pytest.fixture
def proxy(service_of_tiny: Launched) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{service_of_tiny.ports['OPENAI_PORT']}", timeout=120) as client:
        yield client


@pytest.fixture
def admin(service_of_tiny: Launched) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{service_of_tiny.ports['ADMIN_PORT']}"
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=120) as client:
        yield client


def wait_for_names(proxy: httpx.Client, names: set[str], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while {model["id"] for model in proxy.get("/v1/models").json()["data"]} != names:
        assert time.monotonic() < deadline, proxy.get("/v1/models").json()
        time.sleep(0.1)


def test_a_group_comes_is_replaced_under_load_and_goes(proxy: httpx.Client, admin: httpx.Client, tiny: dict[str, Any]):
    added = admin.put("/groups/more", json={**tiny, "served_model_name": "gpt-4"})
    assert added.status_code == 201, added.text
    wait_for_names(proxy, {"primary", "more", "gpt-4"})

    stop = threading.Event()

    def keep_asking(_: int) -> list[tuple[int, str]]:
        answers = []
        while not stop.is_set():
            answer = proxy.post("/v1/chat/completions", json={**CHAT, "model": "more", "max_tokens": 4})
            answers.append((answer.status_code, answer.text))
        return answers

    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(keep_asking, number) for number in range(3)]
        stream = clients.submit(read_stream, proxy)
        time.sleep(1)
        replaced = admin.put("/groups/more", json={"readers": [{**tiny, "max_sequence_length": 200}, tiny | LONGER]})
        time.sleep(1)
        stop.set()
        assert replaced.status_code == 200, replaced.text
        answers = [answer for future in asked for answer in future.result()]
        assert [answer for answer in answers if answer[0] != 200] == []
        assert len(answers) > 20
        assert stream.result().endswith("data: [DONE]\n\n")
    wait_for_names(proxy, {"primary", "more"})
    models = {model["id"]: model["max_model_len"] for model in proxy.get("/v1/models").json()["data"]}
    assert models == {"primary": 256, "more": 200}

    assert admin.delete("/groups/more").status_code == 200
    wait_for_names(proxy, {"primary"})
    assert proxy.post("/v1/chat/completions", json={**CHAT, "model": "more"}).status_code == 404
    assert proxy.post("/v1/chat/completions", json={**CHAT, "model": "primary", "max_tokens": 2}).status_code == 200


LONGER = {"max_sequence_length": 200, "max_batch_size": 2}


def read_stream(proxy: httpx.Client) -> str:
    """Answers that go on for seconds: eight choices, none of which ends before its limit."""
    body = {**CHAT, "model": "more", "max_tokens": 240, "n": 8, "stream": True, "ignore_eos": True}
    with proxy.stream("POST", "/v1/chat/completions", json=body) as response:
        return "".join(response.iter_text())


def test_what_cannot_be_loaded_is_told_and_changes_nothing(
    service_of_tiny: Launched, proxy: httpx.Client, admin: httpx.Client, tiny: dict[str, Any], tmp_path: Path
):
    """The keeper's pulses beside the failing load left a process behind that no unloading ended."""
    (tmp_path / "config.json").write_text("{}")
    for group in ("primary", "broken"):
        refused = admin.put(f"/groups/{group}", json={**tiny, "model_name": str(tmp_path)})
        assert refused.status_code == 422, refused.text
        assert f"{group} did not load: the model {tmp_path} cannot be loaded" in refused.json()["error"]["message"]
    wait_for_names(proxy, {"primary"})
    assert proxy.post("/v1/chat/completions", json={**CHAT, "model": "primary", "max_tokens": 2}).status_code == 200
    (group,) = admin.get("/groups").json()["groups"]
    assert group["readers"][0]["settings"]["model_name"] == tiny["model_name"]
    assert group["readers"][0]["state"] == "READY"

    model = "/models/primary/1/model.py"
    before = service_of_tiny.processes(model)
    assert admin.put("/groups/primary", json=tiny).status_code == 200  # as it is: its files may have changed
    wait_until_gone(service_of_tiny, before)
    assert len(service_of_tiny.processes(model)) == 1


def test_answers_and_refusals_leave_nothing_in_triton_that_keeps_a_model(
    service_of_tiny: Launched, proxy: httpx.Client, admin: httpx.Client, tiny: dict[str, Any]
):
    """A call that was cancelled just before its end kept its model's process alive beyond every unloading."""
    assert admin.put("/groups/more", json=tiny).status_code == 201
    wait_for_names(proxy, {"primary", "more"})
    asked: list[tuple[str, dict[str, Any], int]] = [
        ("/v1/completions", {"prompt": "One", "max_tokens": 2, "n": 2, "logprobs": 2}, 200),
        ("/v1/completions", {"prompt": ["One", "Two"], "max_tokens": 2}, 200),
        ("/v1/completions", {"prompt": [10**6]}, 400),
        ("/detokenize", {"tokens": [10**6]}, 400),
    ]

    def ask(number: int) -> None:
        path, body, status = asked[number % len(asked)]
        answer = proxy.post(path, json={**body, "model": "more"})
        assert answer.status_code == status, answer.text

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(ask, range(200)))
    before = service_of_tiny.processes("/models/more/1/model.py")
    assert len(before) == 1
    assert admin.delete("/groups/more").status_code == 200
    wait_until_gone(service_of_tiny, before)


def wait_until_gone(launch: Launched, pids: list[int], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while set(pids) & set(launch.processes()):
        assert time.monotonic() < deadline, (launch.run_dir / "triton.log").read_text()
        time.sleep(0.1)
