"""docs/errors.md is true: each command on it is run, and answers what stands below it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.launch.launched import ROOT, Launched, free_ports

PAGE = (ROOT / "docs" / "errors.md").read_text()
EXAMPLES = re.findall(r"```bash\n((?:(?!```).)*?curl.*?)\n```\n\n```\n(.*?)\n```", PAGE, re.DOTALL)
# Settings under which some of them are run.
PROXIES = [dict(word.split("=") for word in line.split()) for line in re.findall(r"```bash\n(TAKEOFF_.*)\n```", PAGE)]


@contextmanager
def proxy(settings: dict[str, str], service: Launched) -> Iterator[int]:
    """One more proxy in front of the service's Triton; yields its port."""
    port = free_ports(1)[0]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAKEOFF_")}
    triton = {"TAKEOFF_TRITON_URL": f"127.0.0.1:{service.ports['TRITON_GRPC_PORT']}", "TAKEOFF_PORT": "0"}
    environ = {**clean, **triton, **settings, "TAKEOFF_OPENAI_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "proxy"], cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health")
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def ports(service: Launched) -> Iterator[dict[str, str]]:
    """The page's ports, and those that stand for them here."""
    with ExitStack() as stack:
        found = {"3003": str(service.ports["OPENAI_PORT"])}
        for settings in PROXIES:
            found[settings["TAKEOFF_OPENAI_PORT"]] = str(stack.enter_context(proxy(settings, service)))
        yield found


def answer(command: str, ports: dict[str, str]) -> str:
    for written, ours in ports.items():
        command = command.replace(f"localhost:{written}/", f"localhost:{ours}/")
    command = command.replace("curl ", r"curl -sS --max-time 60 -w '\n%{http_code}\n' ")
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    return said.stdout.strip()


@pytest.mark.parametrize(("command", "says"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_page_answers_as_it_says(ports: dict[str, str], command: Any, says: str):
    assert answer(command, ports) == says
