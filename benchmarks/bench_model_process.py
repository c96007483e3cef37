"""What a pass takes in the model's process beside a device that works by itself, by when its tokens are read.

Usage: .venv/bin/python benchmarks/bench_model_process.py [--streams 32 128 256] [--device-ms 1.8] [--repeats 3]

The engine's thread and the responder's share Python's lock. The real engine runs on a device that is only waited for,
with a launch and a draw of some forty of torch's operations each; the real responder makes the streams' responses,
which go nowhere. Three ways by turns: nobody reads the tokens, the responder reads them when a pass is over, or while
the device works on the next one, which is how it is. Writes benchmarks/results/model_process.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence as Rows
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repository" / "primary" / "1"))
# What exists inside Triton only, stands in as in the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "model_repository" / "fake_triton"))

import torch
from channel import Address
from llm.block_pool import BlockPool
from llm.engine import Engine
from llm.limits import ModelLimits
from llm.model_loader import SkippingDecoder
from llm.observer import Observer, Pass
from llm.request import GenerationRequest, SamplingParams, Submission
from llm.sampler import Draw, Drawing
from llm.scheduler import Chunk, Scheduler
from llm.sequence import Sequence
from responder import Responder
from tqdm import tqdm
from transformers import AutoTokenizer
from triton_io import ResponseWriter

from benchmarks import machine
from benchmarks.bench_serving import RESULTS
from benchmarks.service import default_model

WAYS = ("nobody reads", "read after the pass", "read while the device works")
SWITCH_SECONDS = 0.0005  # as model.py sets it
NUM_OPERATIONS = 40
NUM_WARM, NUM_TIMED = 100, 500
BLOCK_SIZE = 256


class Device:
    """A runner and a sampler in one; the next token is the number of the row."""

    def __init__(self, seconds: float, *, returns_early: bool) -> None:
        self.returns_early = returns_early
        self._seconds = seconds
        self._numbers = torch.zeros(64)

    def forward(self, chunks: Rows[Chunk]) -> float:
        """Launch; the logits are when the device will have computed them."""
        del chunks
        self._work()
        return perf_counter() + self._seconds

    def start(self, logits: float, sequences: Rows[Sequence]) -> Drawing:
        """Launch the draws."""
        self._work()
        return partial(self._finish, logits, len(sequences))

    def is_beyond_repair(self, error: Exception) -> bool:
        """See `llm.engine.Runner`."""
        raise error

    def is_out_of_memory(self, error: Exception) -> bool:
        """See `llm.engine.Runner`."""
        raise error

    def _finish(self, ended: float, count: int) -> list[Any]:
        sleep(max(0.0, ended - perf_counter()))
        return [Draw(1000 + row) for row in range(count)]

    def _work(self) -> None:
        for _ in range(NUM_OPERATIONS):
            torch.add(self._numbers, 1, out=self._numbers)


class Clock(Observer):
    """When passes ended; `done` once there are enough of them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.done = Event()

    def pass_ended(self, ended: Pass) -> None:
        """See `Observer`."""
        del ended
        self.times.append(perf_counter())
        if len(self.times) > NUM_WARM + NUM_TIMED:
            self.done.set()


class Nowhere:
    """A Triton request whose responses nobody gets."""

    def parameters(self) -> str:
        """None."""
        return ""

    def get_response_sender(self) -> "Nowhere":
        """Itself."""
        return self

    def send(self, *_response: object, flags: int = 0) -> None:
        """Do nothing."""

    def is_cancelled(self) -> bool:
        """Never."""
        return False


class Nobody:
    """A sink that drops what it is told."""

    def _drop(self, *_told: object) -> None:
        pass

    prompt_reused = tokens = failed = cancelled = _drop


def measure(tokenizer: Any, way: str, num_streams: int, device_seconds: float) -> float:
    """Milliseconds of a pass, the mean over many."""
    device = Device(device_seconds, returns_early=way == WAYS[2])
    pool = BlockPool(num_streams * 4, BLOCK_SIZE)
    scheduler = Scheduler(pool, max_batch_size=num_streams, max_batch_tokens=16_384, max_pass_seconds=60)
    limits = ModelLimits(
        max_model_len=4 * BLOCK_SIZE,
        vocabulary_size=len(tokenizer),
        end_token_ids=frozenset(),
        defaults=SamplingParams(),
    )
    engine = Engine(device, device, scheduler, limits, max_queue_size=num_streams)
    clock = Clock()
    engine.observers.append(clock)
    responder = Responder(engine, SkippingDecoder(tokenizer), lambda _token_id: b"")
    responder.start()
    responder.open_bundle("all", ResponseWriter(Nowhere()))
    for number in range(num_streams):
        request = GenerationRequest(tuple(range(number, number + 40)), SamplingParams())
        if way == WAYS[0]:
            engine.submit(Submission(request, Nobody()))
        else:
            responder.generate(request, ResponseWriter(Nowhere()), is_stream=True, address=Address("all", number))
    thread = Thread(target=engine.run)
    thread.start()
    clock.done.wait()
    engine.stop()
    thread.join()
    responder.stop()
    times = clock.times[NUM_WARM : NUM_WARM + NUM_TIMED + 1]
    return 1000 * (times[-1] - times[0]) / NUM_TIMED


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--device-ms", type=float, default=1.8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(str(default_model()))
    rounds = [(count, way) for _ in range(arguments.repeats) for count in arguments.streams for way in WAYS]
    taken: dict[tuple[int, str], list[float]] = {}
    for count, way in tqdm(rounds, desc="rounds", unit="round"):
        taken.setdefault((count, way), []).append(measure(tokenizer, way, count, arguments.device_ms / 1000))
    table = [
        {"streams": count, **{way: round(median(taken[count, way]), 2) for way in WAYS}} for count in arguments.streams
    ]
    for line in table:
        print(line)
    rows = [{"streams": count, "way": way, "ms": [round(each, 2) for each in ms]} for (count, way), ms in taken.items()]
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), "ms of a pass": table, "rounds": rows}
    (RESULTS / "model_process.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
