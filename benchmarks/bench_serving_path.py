"""The serving path alone: an engine that emits tokens without computing, through the real Triton and proxy as SSE.

Usage: .venv/bin/python benchmarks/bench_serving_path.py [--streams 128] [--tokens 512] [--pass-ms 10 5 3 0]

The engine hands each stream a token every `pass-ms` (0: as fast as it can). The load generator shares the cores, and
reads every stream as events when all is over. Writes benchmarks/results/serving_path.json.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from benchmarks import machine
from benchmarks.bench_serving import RESULTS, run_http
from benchmarks.service import ROOT, default_model

TRITON = ROOT / ".venv" / "triton" / "pytriton" / "tritonserver"
EMITTING_MODEL = ROOT / "benchmarks" / "emitting_model" / "1"


@contextmanager
def service(folder: Path, pass_ms: float, max_batch_size: int) -> Iterator[str]:
    """The real Triton and the real proxy around the emitting engine; yields the proxy's URL."""
    openai, http, grpc, metrics, native = _free_ports(5)
    settings = {
        "TAKEOFF_MODEL_NAME": str(default_model()),
        "TAKEOFF_DEVICE": "cpu",
        "TAKEOFF_MAX_BATCH_SIZE": str(max_batch_size),
        "TAKEOFF_MAX_BATCH_TOKENS": "16384",
        "TAKEOFF_OPENAI_PORT": str(openai),
        "TAKEOFF_PORT": str(native),
        "TAKEOFF_TRITON_URL": f"127.0.0.1:{grpc}",
        "EMITTING_PASS_MS": str(pass_ms),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    environ = {**os.environ, **settings}
    models = folder / "models"
    subprocess.run([sys.executable, ROOT / "model_repository" / "render.py", models], env=environ, check=True)
    (models / "primary" / "1").unlink()
    (models / "primary" / "1").symlink_to(EMITTING_MODEL)
    triton = [
        TRITON / "bin" / "tritonserver",
        f"--model-repository={models}",
        f"--backend-directory={TRITON / 'backends'}",
        "--disable-auto-complete-config",
        *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--metrics-address=127.0.0.1", f"--metrics-port={metrics}"),
        f"--backend-config=python,shm-region-prefix-name=slipstream-path-{os.getpid()}-",
    ]
    with ExitStack() as started:
        started.enter_context(_running(triton, environ, folder / "triton.log"))
        started.enter_context(_running([sys.executable, "-m", "proxy"], environ, folder / "proxy.log"))
        url = f"http://127.0.0.1:{openai}"
        _await_ready(url, folder)
        yield url


@contextmanager
def _running(command: list[Any], environ: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _await_ready(url: str, folder: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError("\n".join((folder / name).read_text() for name in ("triton.log", "proxy.log")))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def body(number: int, num_tokens: int) -> dict[str, Any]:
    """A chat completion that ends after exactly so many tokens."""
    messages = [{"role": "user", "content": f"Say it again, number {number}."}]
    return {"model": "primary", "messages": messages, "max_tokens": num_tokens, "ignore_eos": True}


def measure(arguments: argparse.Namespace, pass_ms: float) -> dict[str, float]:
    """Medians over the repeats, after a short round to warm up."""
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), pass_ms, arguments.streams) as url:
        run_http(url, [body(number, 64) for number in range(arguments.streams)])
        bodies = [body(number, arguments.tokens) for number in range(arguments.streams)]
        results = [run_http(url, bodies) for _ in tqdm(range(arguments.repeats), desc=f"{pass_ms} ms", unit="round")]
    for result in results:
        assert result["num_tokens"] == arguments.streams * arguments.tokens, "a stream is not whole"
    return {
        "pass ms": pass_ms,
        "streams": arguments.streams,
        "offered tokens/s": round(1000 * arguments.streams / pass_ms) if pass_ms else 0,  # no limit
        "tokens/s": round(median(result["num_tokens"] / result["seconds"] for result in results)),
        "tokens per chunk": round(median(result["num_tokens"] / result["num_chunks"] for result in results), 2),
        "first token ms": round(1000 * median(result["first_token"] for result in results)),
        "gap p50 ms": round(1000 * median(result["gap_p50"] for result in results), 1),
        "gap p99 ms": round(1000 * median(result["gap_p99"] for result in results), 1),
    }


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--pass-ms", type=float, nargs="+", default=[10.0, 5.0, 3.0, 0.0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    table = [measure(arguments, pass_ms) for pass_ms in arguments.pass_ms]
    for line in table:
        print(line)
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), "summary": table}
    (RESULTS / "serving_path.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
