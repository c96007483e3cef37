"""`model` finds its group, and every way of not finding it has its own answer."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from proxy.backend import ModelDescription, ModelState
from proxy.errors import DeadlineError, InternalError, ModelNotFoundError, UnavailableError
from proxy.groups import Groups
from proxy.load_notes import LoadNotes
from tests.proxy.conftest import Server
from tests.proxy.fakes import DESCRIPTION, FakeBackend


@pytest_asyncio.fixture
async def groups(backend: FakeBackend) -> AsyncIterator[Groups]:
    groups = Groups(backend, interval=0.02)
    running = asyncio.create_task(groups.run())
    yield groups
    running.cancel()
    await asyncio.wait([running])


async def test_a_ready_group_is_described_once(backend: FakeBackend) -> None:
    groups = Groups(backend)
    assert await groups.ready("primary") == DESCRIPTION
    backend.description = ModelDescription("other", 1, "", "", "", "", 1)
    await groups.refresh()
    assert await groups.ready("primary") == DESCRIPTION
    assert backend.num_index_calls == 2


async def test_a_group_that_was_replaced_is_described_anew_but_a_late_answer_changes_nothing(
    backend: FakeBackend,
) -> None:
    groups = Groups(backend, trust=0)
    await groups.ready("primary")
    backend.description = ModelDescription("other", 1, "", "", "", "", 1)
    await groups.refresh()
    assert (await groups.ready("primary")).name == "other"

    class Late(FakeBackend):
        async def describe(self, group: str) -> ModelDescription:
            if self.num_index_calls > 1:
                raise DeadlineError("late")
            return DESCRIPTION

    groups = Groups(Late(), trust=0)
    await groups.ready("primary")
    await groups.refresh()
    assert await groups.ready("primary") == DESCRIPTION


async def test_a_group_that_was_away_is_described_anew(backend: FakeBackend) -> None:
    groups = Groups(backend)
    await groups.ready("primary")
    backend.states = [ModelState("primary", "UNAVAILABLE", "unloaded")]
    await groups.refresh()
    backend.states = [ModelState("primary", "READY")]
    backend.description = ModelDescription("other", 1, "", "", "", "", 1)
    assert (await groups.ready("primary")).name == "other"


async def test_an_unknown_name_is_answered_with_the_known_ones(backend: FakeBackend) -> None:
    with pytest.raises(ModelNotFoundError, match=r"'gpt-4' does not exist.*'primary', 'second'") as caught:
        await Groups(backend).ready("gpt-4")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (ModelState("primary", "LOADING"), "still loading"),
        (
            ModelState("primary", "UNAVAILABLE", "CUDA is out of memory"),
            "not available: CUDA is out of memory",
        ),
        (ModelState("primary", "UNLOADING"), "not available"),
        (ModelState("primary", ""), "not available: not loaded"),
        (ModelState("primary", "a word of the future"), "not available"),
    ],
)
async def test_a_group_that_is_not_ready_is_a_503_to_retry(
    backend: FakeBackend, state: ModelState, sentence: str
) -> None:
    backend.states = [state]
    with pytest.raises(UnavailableError, match=sentence) as caught:
        await Groups(backend).ready("primary")
    assert caught.value.headers["retry-after"]


async def test_a_group_is_as_ready_as_its_readiest_version(backend: FakeBackend) -> None:
    backend.states = [
        ModelState("primary", "UNAVAILABLE", "unloaded"),
        ModelState("primary", "READY"),
        ModelState("primary", "LOADING"),
    ]
    groups = Groups(backend)
    await groups.ready("primary")
    assert [group.name for group in groups.all] == ["primary"]


async def test_an_ill_group_does_not_take_the_others_away(backend: FakeBackend) -> None:
    class HalfIll(FakeBackend):
        async def describe(self, group: str) -> ModelDescription:
            if group == "second":
                raise InternalError("It is ill.")
            return await super().describe(group)

    groups = Groups(HalfIll())
    await groups.ready("primary")
    with pytest.raises(UnavailableError, match="It is ill"):
        await groups.ready("second")


async def test_requests_for_unknown_names_share_one_refresh(backend: FakeBackend) -> None:
    groups = Groups(backend)
    results = await asyncio.gather(*(groups.ready(f"m{n}") for n in range(50)), return_exceptions=True)
    assert all(isinstance(result, ModelNotFoundError) for result in results)
    assert backend.num_index_calls == 1


async def test_a_client_that_leaves_does_not_take_the_refresh_along(backend: FakeBackend) -> None:
    groups = Groups(backend)
    first, second = (asyncio.create_task(groups.ready("primary")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == DESCRIPTION


async def test_the_background_notices_that_a_group_goes_and_comes(groups: Groups, backend: FakeBackend) -> None:
    async def until(names: list[str]) -> None:
        while [group.name for group in groups.all if group.state == "ready"] != names:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await asyncio.wait_for(until(["primary", "second"]), 2)
    backend.states = [ModelState("second", "READY"), ModelState("third", "READY")]
    await asyncio.wait_for(until(["second", "third"]), 2)
    backend.failure = UnavailableError("Triton is away.")
    await asyncio.wait_for(until([]), 2)
    with pytest.raises(UnavailableError, match="Triton is away"):
        await groups.ready("second")
    backend.failure = None
    await asyncio.wait_for(until(["second", "third"]), 2)


async def test_a_bug_while_refreshing_does_not_end_the_refreshing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeBackend):
        async def index(self) -> list[ModelState]:
            self.num_index_calls += 1
            raise KeyError("secret")

    backend = Broken()
    running = asyncio.create_task(Groups(backend, interval=0.01).run())
    await asyncio.sleep(0.1)
    assert backend.num_index_calls > 2
    running.cancel()
    assert "KeyError" in caplog.text


async def test_models_lists_the_ready_groups(server: Server, backend: FakeBackend) -> None:
    backend.states = [ModelState("primary", "READY"), ModelState("second", "LOADING")]
    await server.app.ctx.context.groups.refresh()
    response = (await server.http.get("/v1/models")).json()
    (model,) = response["data"]
    assert response["object"] == "list"
    assert model.pop("created") > 1_700_000_000
    assert model == {
        "id": "primary",
        "object": "model",
        "owned_by": "slipstream",
        "root": DESCRIPTION.name,
        "max_model_len": 2048,
    }
    assert (await server.http.get("/v1/models/primary")).json()["id"] == "primary"
    assert (await server.http.get("/v1/models/second")).status_code == 503


async def test_a_group_answers_to_its_aliases_too(server: Server, backend: FakeBackend) -> None:
    backend.states = [ModelState("primary", "READY")]
    backend.description = replace(DESCRIPTION, aliases=("gpt-4", "org/name"))
    assert (await server.chat(model="gpt-4")).json()["model"] == "gpt-4"
    assert backend.requests[-1][0] == "primary"
    listed = (await server.http.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["primary", "gpt-4", "org/name"]
    assert {model["root"] for model in listed} == {DESCRIPTION.name}
    assert (await server.http.get("/v1/models/org%2Fname")).json()["id"] == "org/name"
    assert (await server.http.post("/tokenize", json={"model": "gpt-4", "prompt": "Hi"})).status_code == 200

    backend.states = [ModelState("primary", "LOADING")]
    await server.app.ctx.context.groups.refresh()
    answer = await server.chat(model="gpt-4")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_a_groups_own_name_goes_before_anothers_alias(backend: FakeBackend) -> None:
    class Rivals(FakeBackend):
        async def describe(self, group: str) -> ModelDescription:
            return replace(DESCRIPTION, name=group, aliases=("second",) if group == "primary" else ())

    assert (await Groups(Rivals()).ready("second")).name == "second"


async def test_an_unknown_name_may_be_the_alias_of_a_group_that_is_still_loading(backend: FakeBackend) -> None:
    backend.states = [ModelState("primary", "LOADING"), ModelState("second", "READY")]
    groups = Groups(backend)
    with pytest.raises(UnavailableError, match=r"No model 'gpt-4' is ready, and 'primary' is still loading"):
        await groups.ready("gpt-4")
    backend.states = [ModelState("primary", "UNAVAILABLE", "no memory"), ModelState("second", "READY")]
    with pytest.raises(ModelNotFoundError):
        await groups.ready("gpt-4")


async def test_what_a_load_is_doing_is_told_also_while_triton_itself_starts(
    backend: FakeBackend, tmp_path: Path
) -> None:
    note = tmp_path / "loading" / "primary.json"
    note.parent.mkdir()
    since = time.time() - 12.2
    note.write_text(json.dumps({"phase": "loading weights", "share": 0.43, "since": since, "pid": os.getpid()}))
    (note.parent / "broken.json").write_text("{")
    groups = Groups(backend, loads=LoadNotes(str(tmp_path)).reasons)
    backend.states = [ModelState("primary", "LOADING")]
    with pytest.raises(UnavailableError, match="'primary' is still loading: loading weights 43%, 12 s so far"):
        await groups.ready("primary")

    starting = Groups(backend, loads=LoadNotes(str(tmp_path)).reasons)
    backend.failure = UnavailableError("Triton is away.")
    with pytest.raises(UnavailableError, match="'primary' is still loading: loading weights 43%"):
        await starting.ready("primary")
    note.write_text(json.dumps({"phase": "loading weights", "share": 0.43, "since": since, "pid": 2**22 + 1}))
    with pytest.raises(UnavailableError, match="Triton is away"):
        await starting.ready("primary")


@pytest.mark.parametrize("path", ["/v1/models", "/health/ready"])
async def test_a_process_that_looked_a_moment_too_early_looks_again(
    server: Server, backend: FakeBackend, path: str
) -> None:
    groups = server.app.ctx.context.groups
    await asyncio.wait([groups._refreshing])
    groups._interval = 3600.0
    backend.states = []
    await groups.refresh()
    assert groups.all == []
    backend.states = [ModelState("primary", "READY")]
    answer = await server.http.get(path)
    assert answer.status_code == 200
    assert "primary" in answer.text
    backend.states = [ModelState("primary", "READY"), ModelState("second", "LOADING")]
    await groups.refresh()
    backend.states = [ModelState("primary", "READY"), ModelState("second", "READY")]
    assert "loading" not in (await server.http.get(path)).text


async def test_a_list_of_groups_does_not_wait_for_a_triton_that_hangs(backend: FakeBackend) -> None:
    class Hung(FakeBackend):
        async def index(self) -> list[ModelState]:
            await asyncio.Event().wait()
            raise AssertionError

    groups = Groups(Hung())
    assert await asyncio.wait_for(groups.current(), 5) == []
    assert groups._refreshing is not None
    groups._refreshing.cancel()


async def test_models_says_why_a_group_is_not_ready(server: Server, backend: FakeBackend) -> None:
    backend.states = [ModelState("primary", "READY"), ModelState("second", "UNAVAILABLE", "no memory")]
    await server.app.ctx.context.groups.refresh()
    listed = (await server.http.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["primary"]
    assert listed["not_ready"] == [{"id": "second", "state": "unavailable", "reason": "no memory"}]


@pytest.mark.parametrize("name", ["gpt-4", "org/name", "a%20b", "primary/x", "%F0%9F%99%82"])
async def test_an_unknown_model_is_a_404(server: Server, name: str) -> None:
    response = await server.http.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_ready_means_that_one_group_can_answer(server: Server, backend: FakeBackend) -> None:
    groups = server.app.ctx.context.groups
    backend.states = [ModelState("primary", "READY"), ModelState("second", "UNAVAILABLE", "no memory")]
    await groups.refresh()
    response = await server.http.get("/health/ready")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "groups": [
            {"name": "primary", "state": "ready", "reason": ""},
            {"name": "second", "state": "unavailable", "reason": "no memory"},
        ],
    }
    backend.states = [ModelState("primary", "LOADING")]
    await groups.refresh()
    response = await server.http.get("/health/ready")
    assert response.status_code == 503
    assert response.json()["groups"] == [{"name": "primary", "state": "loading", "reason": "0 s so far"}]
    assert response.json()["error"]["message"] == "No consumer group is ready."
    assert response.headers["retry-after"]
    backend.failure = UnavailableError("Triton is away.")
    await groups.refresh()
    assert (await server.http.get("/health/ready")).json()["error"]["message"] == "Triton is away."
    assert (await server.http.get("/health")).json() == {"status": "ok"}
