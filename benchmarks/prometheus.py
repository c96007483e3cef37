"""A real Prometheus (Debian's) that scrapes a running service by docker/prometheus/'s own files."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

FILES = Path(__file__).resolve().parents[1] / "docker" / "prometheus"


class Prometheus:
    """Runs inside the `with` block.

    Args:
        folder: for its data and its copy of the configuration.
        port: to listen on.
        targets: host:port of each job of prometheus.yml, in place of the compose file's hosts.
        interval: seconds between scrapes.
    """

    def __init__(self, folder: Path, port: int, targets: dict[str, str], interval: float = 1) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._configure(targets, interval)
        self._command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The value of an expression now: samples with `metric` and `value`."""
        return self._ask("query", query=expression)

    def range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Its values from `start` to `end`: series with `metric` and `values`."""
        return self._ask("query_range", query=expression, start=start, end=end, step=step)

    def await_value(self, expression: str, seconds: float = 30) -> list[dict[str, Any]]:
        """The expression's samples as soon as there are any.

        Raises:
            TimeoutError: there are none.
        """
        deadline = time.monotonic() + seconds
        while not (found := self.query(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} has no value after {seconds:g} s")
            time.sleep(0.2)
        return found

    def __enter__(self) -> Self:
        self._log = (self._folder / "prometheus.log").open("w")
        # Debian's defaults file names options of its own.
        self._process = subprocess.Popen(self._command, env={**os.environ, "ARGS": ""}, stderr=self._log)
        deadline = time.monotonic() + 30
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "prometheus.log").read_text())
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _configure(self, targets: dict[str, str], interval: float) -> None:
        config = yaml.safe_load((FILES / "prometheus.yml").read_text())
        config["global"] |= {
            "scrape_interval": f"{interval * 1000:.0f}ms",
            "scrape_timeout": f"{interval * 1000:.0f}ms",
        }
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (self._folder / "alerts.yml").write_text((FILES / "alerts.yml").read_text())

    def _ask(self, what: str, **parameters: str | float) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{query}", timeout=30) as response:
                result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters.get('query')}: {error.read().decode()}") from None
        return result

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False
