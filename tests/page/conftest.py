"""Real Chromium, and both ports on a fake backend in a process of its own.

Playwright's synchronous interface holds an event loop for as long as it lives, which tests with `async def` cannot
bear: it lives as long as one module.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.launch.launched import ROOT, free_ports


class Served:
    """The service; it can be stopped and started again on the same ports."""

    def __init__(self, *keys: str) -> None:
        self.openai_port, self.port = free_ports(2)
        self._keys = keys
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.page.served", str(self.openai_port), str(self.port), *self._keys]
        self._process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"{self.url}healthz").status_code == 200:
                    return
            except httpx.TransportError:
                assert self._process.poll() is None
                assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    served = Served()
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "install Debian's package chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, served: Served) -> Iterator[Open]:
    """A function that opens the page; what the page throws, or was kept from doing, fails the test."""
    contexts, troubles = [], list[str]()

    def note(message: ConsoleMessage) -> None:
        # A refusal of the service is a line in the console too.
        if message.type == "error" and "Failed to load resource" not in message.text:
            troubles.append(message.text)

    def start(url: str = "", *, ready: bool = True, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(url or served.url)
        if ready:
            expect(page.locator("#dot")).to_have_class("dot ready")
        return page

    yield start
    for context in contexts:
        context.close()
    assert not troubles


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the page go; SHOTS names a folder to keep them in."""
    folder = Path(os.environ.get("SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(exist_ok=True)
    return folder
