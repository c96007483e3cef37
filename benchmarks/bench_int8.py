"""What `TAKEOFF_QUANT_TYPE=int8` gains in speed and costs in quality, beside float32 in one run.

Usage: .venv/bin/python benchmarks/bench_int8.py [--repeats 3] [--streams 1 8 32]

Speed: both engines are up and asked in turn. Quality: perplexity of the text in this repository's docs, in windows.
Writes benchmarks/results/int8.json.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repository" / "primary" / "1"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from llm.attention import IMPLEMENTATION
from llm.decoder import build_decoder
from llm.linear import choose_pack
from llm.probe import Probe, probe_layers
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import machine, workload
from benchmarks.bench_serving import RESULTS, EngineAlone
from benchmarks.service import ROOT, default_model

QUANT_TYPES = ("none", "int8")
WINDOW = 512


def speed(streams: list[int], repeats: int) -> dict[str, dict[int, float]]:
    """Median tokens/s by quantisation and number of streams."""
    engines = {name: EngineAlone(str(default_model()), f"quant_type={name}") for name in QUANT_TYPES}
    speeds: dict[str, dict[int, list[float]]] = {name: {count: [] for count in streams} for name in QUANT_TYPES}
    rounds = [(repeat, count) for repeat in range(repeats + 1) for count in streams]
    for repeat, count in tqdm(rounds, desc="rounds", unit="round"):
        bodies = [workload.request(1000 * repeat + number) for number in range(count)]
        for name, engine in engines.items():
            result = engine.run(bodies)
            if repeat:  # the first round warms up
                speeds[name][count].append(result["num_tokens"] / result["seconds"])
    for engine in engines.values():
        engine.close()
    return {name: {count: round(median(of), 1) for count, of in by.items()} for name, by in speeds.items()}


@torch.inference_mode()
def perplexity(quant_type: str, text: str) -> float:
    """Of the text's tokens, each predicted from those before it in its window."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        default_model(), dtype=torch.float32, attn_implementation=IMPLEMENTATION
    )
    pack = choose_pack(torch.device("cpu"), torch.float32, quant_type)
    decoder = build_decoder(model, probe_layers(model), pack)
    ids = torch.tensor(AutoTokenizer.from_pretrained(default_model())(text)["input_ids"])
    losses: list[torch.Tensor] = []
    for window in tqdm(torch.split(ids, WINDOW), desc=f"perplexity, {quant_type}", unit="window"):
        positions = torch.arange(len(window))
        logits = decoder(window, positions, positions, Probe())
        losses.append(cross_entropy(logits[:-1], window[1:], reduction="none"))
    return float(torch.cat(losses).mean().exp())


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    arguments = parser.parse_args()
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(file.read_text() for file in files)
    result: dict[str, Any] = {
        "tokens/s": speed(arguments.streams, arguments.repeats),
        "perplexity": {name: round(perplexity(name, text), 3) for name in QUANT_TYPES},
        "characters": len(text),
    }
    print(json.dumps(result, indent=1))
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), **result}
    (RESULTS / "int8.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
