"""The README is true to the code: its table of settings, its file map, its links."""

import re
import subprocess
from dataclasses import MISSING, fields

from llm.config import ENVIRONMENT_PREFIX, EngineConfig

from benchmarks import speed_tables
from keeper.config import KeeperConfig
from proxy.config import ProxyConfig
from tests.launch.launched import ROOT

README = (ROOT / "README.md").read_text()
ROW = re.compile(r"^\| `(TAKEOFF_\w+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
# Variables of launch.sh and setup/, with their defaults where bash gives one that can be said in a word.
BASH = re.compile(r"\$\{(TAKEOFF_\w+)(?::-([\w.]*))?")


def rows() -> dict[str, tuple[str, str]]:
    return {name: (default.strip("`"), meaning) for name, default, meaning in ROW.findall(README)}


def test_every_setting_of_the_engine_stands_in_the_table_with_its_default_and_meaning():
    table = rows()
    for setting in fields(EngineConfig):
        default, meaning = table[ENVIRONMENT_PREFIX + setting.name.upper()]
        expected = "" if setting.default in (None, MISSING, ()) else str(setting.default)
        expected = expected.lower() if isinstance(setting.default, bool) else expected
        assert meaning.endswith(setting.metadata["description"])
        if setting.name != "model_name":  # launch.sh has a default model of its own
            assert default == expected


def test_every_setting_of_the_proxy_stands_in_the_table_with_its_default_and_meaning():
    table = rows()
    for setting in fields(ProxyConfig):
        metadata = setting.metadata
        assert table[metadata["env"]] == (metadata["default"], metadata["description"])


def test_every_setting_of_the_keeper_stands_in_the_table_with_its_default_and_meaning():
    table = rows()
    for setting in fields(KeeperConfig):
        metadata = setting.metadata
        assert table[metadata["env"]] == (metadata["default"], metadata["description"])


def test_every_variable_of_the_launcher_stands_in_the_table():
    scripts = [ROOT / "launch.sh", *ROOT.glob("setup/*.sh")]
    table = rows()
    for script in scripts:
        for name, default in BASH.findall(script.read_text()):
            assert name in table, f"{script.name}: {name}"
            if default:
                assert table[name][0] == default, name


def test_the_table_holds_nothing_that_no_code_reads():
    read = {ENVIRONMENT_PREFIX + setting.name.upper() for setting in fields(EngineConfig)}
    read |= {setting.metadata["env"] for setting in fields(ProxyConfig)}
    read |= {setting.metadata["env"] for setting in fields(KeeperConfig)}
    for script in [ROOT / "launch.sh", *ROOT.glob("setup/*"), *ROOT.glob("model_repository/*.py")]:
        if script.is_file():
            read |= set(re.findall(r"TAKEOFF_\w+", script.read_text()))
    read.add("TAKEOFF_CONFIG_FILE")
    assert set(rows()) <= read


def test_files_and_links_that_are_named_exist():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    tree = README.partition("## Where things are")[2].partition("```")[2].partition("```")[0]
    # Not by looking for each in all folders: 200,000 files of packages lie in some.
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    ours = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in re.findall(r"[\w./-]+\.(?:py|sh|pbtxt|yaml|md)\b", tree):
        assert any(f"/{path}".endswith(f"/{name}") for path in ours), name


def test_the_tables_on_speed_say_what_was_kept():
    """They were typed in, and said 1.04 times vLLM's speed when the kept results said 1.85."""
    assert all(f"<!-- {name} -->" in README for name in speed_tables.TABLES)
    assert speed_tables.render(README) == README
    assert speed_tables.render(README.replace("| 8 | ", "| 8 | 1")) == README
