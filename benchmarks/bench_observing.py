"""What counting, timing and logging cost where work is done: per token and pass, and per response in the proxy.

Usage: .venv/bin/python benchmarks/bench_observing.py

Runs without a model and without Triton: the engine's thread and the proxy's event loop only leave numbers, so this is
all that they feel. What Triton takes to be told (in the background) is not in it.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    str(ROOT),
    str(ROOT / "model_repository" / "primary" / "1"),
    str(ROOT / "tests" / "model_repository" / "fake_triton"),
]


def microseconds(work: Callable[[], Any], times: int = 20_000) -> float:
    """The best of five means."""

    def mean() -> float:
        started = perf_counter()
        for _ in range(times):
            work()
        return (perf_counter() - started) / times * 1e6

    return min(mean() for _ in range(5))


def engine() -> dict[str, float]:
    """The engine's side."""
    from engine_metrics import EngineMetrics
    from llm.observer import Pass, Timeline
    from request_log import RequestLog, configure_logging

    description: Any = SimpleNamespace(name="m", max_num_sequences=8, device="cpu", dtype="float32", engine_version="0")
    observed: Any = SimpleNamespace(observers=[])
    metrics = EngineMetrics("primary", description, observed, observed)
    with open(os.devnull, "w") as nowhere:
        sys.stderr, before = nowhere, sys.stderr
        listener = configure_logging({})
        log = RequestLog("primary")
        ended = Timeline(arrived=0, scheduled=0.1, first_token=0.2, ended=1, outcome="stop", num_generated=20)

        def token() -> None:
            ended.num_generated += 1
            if ended.first_token is None:
                raise AssertionError

        def request() -> None:
            metrics.first_token(ended)
            metrics.request_ended(ended)
            log.request_ended(ended)
            metrics._observations.clear()

        def one_pass() -> None:
            metrics.pass_ended(Pass(0.1, 32, 32, 32, True))
            metrics._observations.clear()

        costs = {"token": microseconds(token), "pass": microseconds(one_pass), "request": microseconds(request, 2000)}
        listener.stop()
        sys.stderr = before
    return costs


def proxy() -> dict[str, float]:
    """The proxy's side, in this process."""
    from proxy.backend import Piece, Usage
    from proxy.groups import Groups
    from proxy.meter import Meter
    from proxy.record import Record

    backend: Any = None  # nobody asks it
    meter = Meter(Groups(backend))
    request: Any = SimpleNamespace(ctx=SimpleNamespace(request_id="r"))
    piece, last = [Piece(0, "word", 1)], [Piece(0, "word", 1, "stop", Usage(20, 20))]
    record = Record(request, meter, "chat")
    record.ask("primary", stream=True)

    def whole() -> None:
        record = Record(request, meter, "chat")
        record.ask("primary", stream=True)
        record.note(last)
        record.end()

    logging.disable()
    return {"response": microseconds(lambda: record.note(piece)), "request": microseconds(whole, 2000)}


def main() -> None:
    """Print everything; the proxy once more as one of several processes, which count in files."""
    if sys.argv[1:] == ["proxy"]:
        print(_line("proxy, one of several processes", proxy()))
        return
    print(_line("engine's thread", engine()))
    print(_line("proxy", proxy()))
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder}
        subprocess.run([sys.executable, __file__, "proxy"], env=environ, check=True)


def _line(where: str, costs: dict[str, float]) -> str:
    return f"{where}: " + ", ".join(f"{cost:.2f} us a {what}" for what, cost in costs.items())


if __name__ == "__main__":
    main()
