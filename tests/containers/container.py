"""A real container, as `podman run` starts it: what it says, what runs in it, how it ends."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

REGISTRY = "localhost/slipstream"


class Container:
    """One container of an image of ours."""

    def __init__(self, image: str, *options: str) -> None:
        self.name = f"{image}-{uuid.uuid4().hex[:8]}"
        podman("run", "--detach", "--name", self.name, *options, f"{REGISTRY}-{image}")

    @property
    def output(self) -> str:
        """What it has said so far."""
        done = subprocess.run(["podman", "logs", self.name], stdout=-1, stderr=subprocess.STDOUT, text=True, check=True)
        return done.stdout

    def run(self, *command: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the container's own user or another."""
        options = ["--user", user] if user else []
        command = ("podman", "exec", *options, self.name, *command)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def is_healthy(self) -> bool:
        """Whether the image's own health check succeeds now."""
        done = subprocess.run(["podman", "healthcheck", "run", self.name], capture_output=True, check=False)
        return done.returncode == 0

    def wait_until_healthy(self, seconds: float = 120) -> None:
        """Wait for the health check; a container that ends before fails the test."""
        deadline = time.monotonic() + seconds
        while not self.is_healthy():
            assert self.state["Status"] == "running", self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.5)

    @property
    def state(self) -> dict[str, Any]:
        """Podman's record of it."""
        [record] = json.loads(podman("inspect", self.name))
        state: dict[str, Any] = record["State"]
        return state

    def exit_code(self, seconds: float = 60) -> int:
        """Wait until it ends by itself."""
        done = subprocess.run(
            ["podman", "wait", self.name], capture_output=True, text=True, check=True, timeout=seconds
        )
        return int(done.stdout)

    def stop(self, seconds: int = 60) -> int:
        """What `docker stop` does: SIGTERM, and SIGKILL after so many seconds. Returns the exit code."""
        podman("stop", "--time", str(seconds), self.name)
        return int(self.state["ExitCode"])


@contextmanager
def running(image: str, *options: str) -> Iterator[Container]:
    """A container that is gone when the block ends."""
    container = Container(image, *options)
    try:
        yield container
    finally:
        podman("rm", "--force", "--time", "0", container.name)


def podman(*arguments: str) -> str:
    """Run Podman; what goes wrong fails the test with Podman's words."""
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}"
    return done.stdout
