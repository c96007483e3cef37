"""Faults inside a model's process, by a model that breaks when it is told to: what clients see."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.conftest import READY
from tests.engine.tiny_models import save_model
from tests.launch.launched import Launched, launched
from tests.reliability.conftest import Victim, error_of

# Seconds. A busy machine must not look hung.
PASS_TIMEOUT = 8


class Faulty(Victim):
    """A service with the groups `faulty` and `tiny`."""

    def __init__(self, launch: Launched, faults: Path, start_seconds: float) -> None:
        super().__init__(launch)
        self._faults = faults
        self._start_seconds = start_seconds  # no less than a load

    def prepare(self, what: str, fault: str) -> Path:
        """Have the next `load` or `pass` of the faulty model break."""
        self._faults.joinpath("draft").write_text(fault)
        return self._faults.joinpath("draft").rename(self._faults / what)

    def complain(self) -> tuple[list[tuple[int, str]], float]:
        """Four requests, two of them streams, that nobody can answer: their statuses and errors, their seconds."""
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            streams = [pool.submit(self.stream, "faulty") for _ in range(2)]
            wholes = [pool.submit(self.ask, "faulty") for _ in range(2)]
            failures = [(status, error_of(events[-1])["message"]) for status, events in (s.result() for s in streams)]
            for answer in (whole.result() for whole in wholes):
                assert answer.status_code in (500, 503), answer.text
                failures.append((answer.status_code, answer.json()["error"]["message"]))
        return failures, time.monotonic() - began

    def heal(self, num_loads: int = 1) -> None:
        """Wait until the faulty model serves again, each load within its time plus ten seconds, and ask others."""
        with ThreadPoolExecutor(1) as pool:
            healed = pool.submit(self.wait_until_it_serves, "faulty")
            while not healed.done():
                answer = self.ask("tiny", timeout=5)
                assert answer.status_code == 200, answer.text
            assert healed.result() < num_loads * (self._start_seconds + 10)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    folder = tmp_path_factory.mktemp("faulty")
    faults = folder / "faults"
    faults.mkdir()
    common = {"page_cache_size": "50MB", "device": "cpu"}
    readers = {
        "one": {"model_name": str(_save_faulty(folder / "model", faults)), "consumer_group": "faulty", **common},
        "two": {"model_name": str(save_model("llama", folder / "tiny")), "consumer_group": "tiny", **common},
    }
    readers["one"]["trust_remote_code"] = "true"
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"takeoff": {"readers_config": readers}}))
    began = time.monotonic()
    with launched(
        folder,
        TAKEOFF_CONFIG_FILE=str(config),
        TAKEOFF_PASS_TIMEOUT_SECONDS=str(PASS_TIMEOUT),
        HF_MODULES_CACHE=str(folder / "modules"),
    ) as launch:
        launch.wait_until_it_says(READY, seconds=300)
        yield Faulty(launch, faults, time.monotonic() - began)


def _save_faulty(folder: Path, faults: Path) -> Path:
    save_model("gpt2", folder)
    shutil.copy(Path(__file__).parent / "faulty_model" / "faulty.py", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "faulty.FaultyModel"}, "fault_folder": str(faults)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_engine_whose_thread_dies_is_replaced(faulty: Faulty) -> None:
    faulty.prepare("pass", "thread")
    failures, seconds = faulty.complain()
    assert seconds < 5
    assert {status for status, _ in failures} == {503}
    faulty.heal()


def test_a_fault_of_the_device_and_a_load_for_which_memory_lacks_are_healed(faulty: Faulty) -> None:
    """The replaced process's memory is not always free at once."""
    load = faulty.prepare("load", "memory")
    faulty.prepare("pass", "cuda")
    failures, seconds = faulty.complain()
    assert seconds < 5
    assert any("failed while it worked on this request" in message for _, message in failures)
    faulty.heal(num_loads=2)
    assert not load.exists()
    assert "needs more memory than cpu has, with " in (faulty.launch.run_dir / "keeper.log").read_text()


def test_a_pass_for_which_memory_lacks_fails_its_requests_and_three_in_a_row_the_process(faulty: Faulty) -> None:
    faulty.wait_until_it_serves("faulty")
    process = faulty.stub("faulty")
    for _ in range(3):
        assert faulty.ask("faulty").status_code == 200
        faulty.prepare("pass", "memory")
        failed = faulty.ask("faulty")
        assert (failed.status_code, failed.headers["retry-after"]) == (503, "2")
        assert "ran out of memory" in failed.json()["error"]["message"]
    assert faulty.ask("faulty").status_code == 200
    assert faulty.stub("faulty") == process
    for _ in range(3):
        faulty.prepare("pass", "memory")
        assert faulty.ask("faulty").status_code == 503
    faulty.heal()
    assert faulty.stub("faulty") != process


def test_a_pass_that_hangs_is_given_up_after_the_bound(faulty: Faulty) -> None:
    faulty.prepare("pass", "hang")
    failures, seconds = faulty.complain()
    assert PASS_TIMEOUT < seconds < PASS_TIMEOUT + 5
    assert {status for status, _ in failures} == {503}
    faulty.heal()
