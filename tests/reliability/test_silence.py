"""What clients send stays out of every log: prompts and keys of good, refused and failing requests."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.conftest import READY
from tests.engine.tiny_models import save_model
from tests.launch.launched import launched

# Nothing else says these words.
KEY, WRONG_KEY, PROMPT = "key-quagga", "wrong-okapi", "numbat"

REQUESTS: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 2}, 200),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2}, 200),
    ("/v1/chat/completions", {"messages": [{"role": PROMPT, "content": PROMPT}]}, 400),
    ("/v1/completions", {"prompt": PROMPT * 100_000}, 400),
    ("/v1/completions", {"prompt": PROMPT, "stop": [PROMPT] * 100}, 400),
    ("/v1/completions", {"prompt": [PROMPT, {"a": PROMPT}]}, 400),
    ("/v1/completions", {"model": PROMPT, "prompt": PROMPT}, 404),
]


def test_no_log_holds_a_prompt_or_a_key(tmp_path: Path) -> None:
    logs = tmp_path / "run"
    logs.mkdir()
    config = tmp_path / "config.yaml"
    tiny = {"model_name": str(save_model("llama", tmp_path / "tiny")), "consumer_group": "tiny", "device": "cpu"}
    config.write_text(yaml.safe_dump({"takeoff": {"readers_config": {"one": {**tiny, "page_cache_size": "50MB"}}}}))
    with launched(logs, TAKEOFF_CONFIG_FILE=str(config), TAKEOFF_API_KEYS=KEY, TAKEOFF_LOG_LEVEL="debug") as launch:
        launch.wait_until_it_says(READY, seconds=300)
        url = f"http://127.0.0.1:{launch.ports['OPENAI_PORT']}"
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http:
            for path, body, status in REQUESTS:
                answer = http.post(path, json={"model": "tiny", **body})
                assert answer.status_code == status, answer.text[:500]
            broken = b'{"model": "tiny", "prompt": "' + PROMPT.encode()
            assert http.post("/v1/completions", content=broken).status_code == 400
            wrong = {"authorization": f"Bearer {WRONG_KEY}"}
            assert http.post("/v1/completions", json={"prompt": PROMPT}, headers=wrong).status_code == 401
            [stub] = launch.processes("/models/tiny/1/model.py")
            os.kill(stub, signal.SIGKILL)
            failing = http.post("/v1/completions", json={"model": "tiny", "prompt": PROMPT, "max_tokens": 2})
            assert failing.status_code == 503, failing.text
        texts = {path: path.read_text(errors="replace") for path in logs.rglob("*") if path.suffix == ".log"}
        texts[logs / "output"] = launch.output
    assert {path.name for path in texts} >= {"proxy.log", "triton.log", "keeper.log", "output"}
    assert "status=200" in texts[logs / "proxy.log"]
    assert "status=401" in texts[logs / "proxy.log"]
    found = [(path.name, word) for path, text in texts.items() for word in (KEY, WRONG_KEY, PROMPT) if word in text]
    assert not found
