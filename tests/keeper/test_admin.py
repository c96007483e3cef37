"""The admin API's own words: keys, bodies and errors."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from keeper.admin import serve_admin
from keeper.config import ConfigError, KeeperConfig
from keeper.group_locks import GroupLocks
from keeper.group_room import GroupRoom
from keeper.triton import TritonAwayError, TritonError
from tests.keeper.fakes import FakeTriton
from tests.keeper.test_group_room import CPU, Forgetful
from tests.launch.launched import free_ports

KEY = "a-key-that-is-long"


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton()


@pytest_asyncio.fixture
async def admin(triton: FakeTriton, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    (port,) = free_ports(1)
    config = KeeperConfig(admin_key=KEY, admin_port=port)
    runner = await serve_admin(config, GroupRoom(triton, tmp_path, GroupLocks(), Forgetful(triton.calls), {}))
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
        yield client
    await runner.cleanup()


def message(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


async def test_a_group_is_added_shown_replaced_and_removed(admin: httpx.AsyncClient):
    added = await admin.put("/groups/primary", json=CPU)
    assert (added.status_code, added.json()["readers"][0]["state"]) == (201, "READY")
    assert (await admin.put("/groups/primary", json={"readers": [CPU, CPU]})).status_code == 200
    (group,) = (await admin.get("/groups")).json()["groups"]
    assert [reader["model"] for reader in group["readers"]] == ["primary", "primary--2"]
    assert group["readers"][0]["settings"] == {**CPU, "cuda_visible_devices": "0"}
    assert (await admin.delete("/groups/primary")).json() == {"name": "primary", "deleted": True}
    assert (await admin.get("/groups")).json() == {"groups": []}


@pytest.mark.parametrize("headers", [{"authorization": ""}, {"authorization": "Bearer no"}, {"authorization": KEY}])
@pytest.mark.parametrize(("method", "path"), [("GET", "/groups"), ("PUT", "/groups/x"), ("GET", "/nothing")])
async def test_without_the_key_nothing_is_told(
    admin: httpx.AsyncClient, headers: dict[str, str], method: str, path: str
):
    response = await admin.request(method, path, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b'{"readers": []}', b'{"readers": [1]}', b"[" * 100_000])
async def test_a_body_that_makes_no_sense_is_a_400(admin: httpx.AsyncClient, body: bytes):
    response = await admin.put("/groups/primary", content=body)
    assert response.status_code == 400
    assert message(response)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PUT", "/groups/primary", {"model_name": "x", "device": "tpu"}, 400, "device='tpu' cannot be used"),
        ("DELETE", "/groups/none", None, 404, "There is no consumer group 'none'"),
        ("POST", "/groups/primary", CPU, 405, "Method Not Allowed"),
        ("GET", "/nothing", None, 404, "Not Found"),
        ("PUT", "/groups/primary", {"x": "x" * 2**21}, 413, "Request Entity Too Large"),
        ("PUT", "/groups/..%2Fup", CPU, 400, "consumer_group='../up' cannot be used"),
    ],
)
async def test_every_refusal_is_an_error_object(
    admin: httpx.AsyncClient, method: str, path: str, body: Any, status: int, words: str
):
    response = await admin.request(method, path, json=body)
    assert response.status_code == status
    assert words in message(response)


async def test_what_triton_refuses_is_told(admin: httpx.AsyncClient, triton: FakeTriton):
    triton.load_failures = [TritonError("ModelLoadError: it is gated\n\nAt: x")]
    response = await admin.put("/groups/primary", json=CPU)
    assert (response.status_code, message(response)) == (422, "primary did not load: it is gated")
    triton.index_failure = TritonAwayError("nothing answers")
    assert (await admin.get("/groups")).status_code == 503


@pytest.mark.parametrize("key", ["short", "with space in the middle", "ключ-достаточной-длины"])
def test_a_weak_key_is_refused_without_being_shown(key: str):
    with pytest.raises(ConfigError, match=r"^TAKEOFF_ADMIN_KEY=\.\.\. cannot be used"):
        KeeperConfig.from_env({"TAKEOFF_ADMIN_KEY": key})
    assert "secret" not in repr(KeeperConfig(admin_key="secret-secret-secret"))
