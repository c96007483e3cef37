"""Models from a hub, from its cache and from folders; what is amiss is told in one sentence that says what to do."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.fake_hub import COMMIT, FakeHub, serving
from tests.engine.tiny_models import save_model
from tests.launch.launched import ROOT

# In a process of its own, because the hub's client reads its variables when it is imported.
PROGRAM = """
import json, os, sys
from llm.config import EngineConfig
from llm.errors import ModelLoadError
from llm.model_files import find_model
reports = []
try:
    found = find_model(EngineConfig.from_settings(json.loads(sys.argv[1])), lambda *report: reports.append(report))
except ModelLoadError as error:
    print(json.dumps({"error": str(error)}))
else:
    names = sorted(os.listdir(found.folder))
    print(json.dumps({"folder": str(found.folder), "gguf": found.gguf, "names": names, "reports": reports}))
"""
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("gpt2", tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def hub(tiny: Path) -> Iterator[FakeHub]:
    with serving(FakeHub(tiny)) as hub:
        yield hub


def find(cache: Path, endpoint: str, settings: dict[str, str], **environ: str) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TAKEOFF_"))}
    path = str(ROOT / "model_repository" / "primary" / "1")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps({"model_name": "org/tiny", **settings})],
        env={**clean, "PYTHONPATH": path, "HF_HOME": str(cache), "HF_ENDPOINT": endpoint, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_hubs_model_is_downloaded_once_and_served_from_the_cache_when_the_hub_is_away(hub: FakeHub, tmp_path: Path):
    (hub.folder / "README.md").write_text("not needed")
    found = find(tmp_path, hub.url, {})
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(found["names"])
    assert "README.md" not in found["names"]
    assert COMMIT in found["folder"]
    assert any(phase.startswith("downloading ") and share == 1 for phase, share in found["reports"])

    for environ in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = find(tmp_path, NOWHERE, {}, **environ)
        assert again["names"] == found["names"]
    hub.asked.clear()
    find(tmp_path, hub.url, {"revision": COMMIT})
    assert not [path for path in hub.asked if "org/tiny" in path]  # a commit never changes


def test_a_cache_that_an_older_client_filled_is_served_too(hub: FakeHub, tmp_path: Path):
    """Its clients kept no list of a repository's files, and such a model was refused: ~/.takeoff_cache, for one."""
    found = find(tmp_path, hub.url, {})
    [listing] = tmp_path.glob("hub/models--org--tiny/trees/*.json")
    listing.unlink()
    for environ in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = find(tmp_path, NOWHERE, {}, **environ)
        assert again["names"] == found["names"]


def test_a_revision_is_pinned_and_an_unknown_one_is_named(hub: FakeHub, tmp_path: Path):
    assert COMMIT in find(tmp_path, hub.url, {"revision": "v1"})["folder"]
    assert "it has no revision 'v2': set TAKEOFF_REVISION" in find(tmp_path, hub.url, {"revision": "v2"})["error"]


def test_a_private_hub_wants_its_token(hub: FakeHub, tmp_path: Path):
    hub.token = "hf_secret"
    refused = find(tmp_path, hub.url, {})["error"]
    assert f"{hub.url} has none of that name" in refused
    assert "set HF_TOKEN" in refused
    assert "names" in find(tmp_path, hub.url, {}, HF_TOKEN="hf_secret")


def test_a_gated_model_says_how_to_get_in(hub: FakeHub, tmp_path: Path):
    hub.refusal = (403, "GatedRepo")
    error = find(tmp_path, hub.url, {})["error"]
    assert error.startswith(f"the model org/tiny cannot be had: it is gated: accept its terms on {hub.url}")
    assert "\n" not in error


@pytest.mark.parametrize(("status", "code"), [(500, "Oops"), (429, "TooMany")])
def test_an_ill_hub_is_told_in_one_sentence(hub: FakeHub, tmp_path: Path, status: int, code: str):
    hub.refusal = (status, code)
    assert "it is not in" in find(tmp_path, hub.url, {})["error"]


def test_a_hub_that_is_away_is_noticed_at_once(tmp_path: Path):
    """Transformers asked for one file after the other, each with its own attempts: 40 s."""
    started = time.monotonic()
    error = find(tmp_path, NOWHERE, {})["error"]
    assert time.monotonic() - started < 20
    assert f"it is not in {tmp_path}/hub, and {NOWHERE} cannot be reached" in error
    offline = find(tmp_path, NOWHERE, {}, HF_HUB_OFFLINE="1")["error"]
    assert "HF_HUB_OFFLINE is set: start once without it" in offline


def test_what_is_half_downloaded_is_no_model_but_is_gone_on_with(hub: FakeHub, tmp_path: Path):
    hub.cut = "model.safetensors"
    assert find(tmp_path, hub.url, {})["error"].startswith("the model org/tiny cannot be had: ")
    for environ in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert f"only a part of it is in {tmp_path}/hub" in find(tmp_path, NOWHERE, {}, **environ)["error"]
    hub.cut = None
    assert "model.safetensors" in find(tmp_path, hub.url, {})["names"]


@pytest.mark.parametrize("name", ["a b/c", "one/two/three", "org/--"])
def test_what_is_no_name_of_a_hub_is_refused(tmp_path: Path, name: str):
    assert "it is neither a folder nor a hub name" in find(tmp_path, NOWHERE, {"model_name": name})["error"]


def test_a_hubs_gguf_file_is_found_and_of_several_one_must_be_named(tmp_path: Path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "tiny-q4.gguf").write_bytes(b"GGUF 4")
    with serving(FakeHub(folder)) as hub:
        assert find(tmp_path, hub.url, {})["gguf"] == "tiny-q4.gguf"
        (folder / "tiny-q8.gguf").write_bytes(b"GGUF 8")
        other = tmp_path / "other-cache"
        error = find(other, hub.url, {})["error"]
        assert "it has 2 GGUF files (tiny-q4.gguf, tiny-q8.gguf): name one of them" in error
        assert "TAKEOFF_MODEL_NAME=org/tiny/tiny-q4.gguf" in error
        named = find(other, hub.url, {"model_name": "org/tiny/tiny-q8.gguf"})
        assert (named["gguf"], named["names"]) == ("tiny-q8.gguf", ["tiny-q8.gguf"])


def test_folders_and_files_are_taken_as_they_are(tiny: Path, tmp_path: Path):
    assert find(tmp_path, NOWHERE, {"model_name": str(tiny)})["folder"] == str(tiny)
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    for name in (tmp_path, gguf):
        found = find(tmp_path, NOWHERE, {"model_name": str(name)})
        assert (found["folder"], found["gguf"]) == (str(tmp_path), "model.gguf")
    empty = tmp_path / "empty"
    empty.mkdir()
    error = find(tmp_path, NOWHERE, {"model_name": str(empty)})["error"]
    assert "it has neither a config.json nor a GGUF file" in error
