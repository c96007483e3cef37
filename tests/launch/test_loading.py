"""While models load, whoever asks is told so, by a proxy elsewhere too; no group holds another up."""

import socket
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.engine.tiny_models import save_model
from tests.launch.launched import Launched, launched


def states_of(http: httpx.Client) -> dict[str, str]:
    try:
        answer = http.get("/health/ready").json()
    except httpx.TransportError:  # the proxy has not begun to listen
        return {}
    return {group["name"]: group["state"] for group in answer.get("groups", [])}


def ask(http: httpx.Client, group: str) -> httpx.Response:
    return http.post("/v1/completions", json={"model": group, "prompt": "Hi", "max_tokens": 2})


def write_config(path: Path, readers: dict[str, dict[str, Any]]) -> str:
    shared = {"device": "cpu", "page_cache_size": "20MB"}
    entries = {group: {"consumer_group": group, **shared, **reader} for group, reader in readers.items()}
    path.write_text(yaml.safe_dump({"takeoff": {"readers_config": entries}}))
    return str(path)


def wait_for_states(http: httpx.Client, launch: Launched, states: dict[str, str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while (seen := states_of(http)) != states:
        assert time.monotonic() < deadline, (seen, launch.output)
        time.sleep(0.1)


def test_a_proxy_elsewhere_tells_what_loads_and_serves_what_is_ready_and_a_failed_load_ends_the_launch(tmp_path: Path):
    """Triton answered nobody until the last model was loaded: a proxy elsewhere called it unreachable meanwhile."""
    folders = [tmp_path / name for name in ("triton", "proxy")]
    for folder in folders:
        folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent_hub:  # never answers: what is to come from it goes on loading
        endpoint = f"http://127.0.0.1:{silent_hub.getsockname()[1]}"
        readers = {"tiny": {"model_name": str(save_model("gpt2", tmp_path / "gpt2"))}, "slow": {"model_name": "org/x"}}
        settings = {"TAKEOFF_CONFIG_FILE": write_config(tmp_path / "config.yaml", readers), "HF_ENDPOINT": endpoint}
        environ = {**settings, "HF_HOME": str(tmp_path), "HF_HUB_ETAG_TIMEOUT": "600", "HF_HUB_DOWNLOAD_TIMEOUT": "600"}
        with launched(folders[0], mode="triton", **environ) as triton:
            url = f"127.0.0.1:{triton.ports['TRITON_GRPC_PORT']}"
            with launched(folders[1], mode="proxy", TAKEOFF_TRITON_URL=url) as proxy:
                address = f"http://127.0.0.1:{proxy.ports['OPENAI_PORT']}"
                with httpx.Client(base_url=address, timeout=60) as http:
                    wait_for_states(http, triton, {"tiny": "ready", "slow": "loading"})
                    assert ask(http, "tiny").status_code == 200
                    refused = ask(http, "slow")
                    assert refused.status_code == 503
                    assert "'slow' is still loading: " in refused.json()["error"]["message"]
                    assert "retry-after" in refused.headers
            silent_hub.close()
            assert triton.exit_code() == 1, triton.output
            assert "launch.sh: The service did not start: the model of group 'slow' did not load: " in triton.output
            assert triton.processes() == []
