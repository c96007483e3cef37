"""What `TAKEOFF_DTYPE=bfloat16` and `TAKEOFF_QUANT_TYPE=int8` gain on a CPU and cost in quality, beside float32.

Usage: .venv/bin/python benchmarks/bench_precision.py [--repeats 3] [--streams 1 8 32]

The model's own weights are no bfloat16's: float32 is measured with them and with a copy of the model that was rounded
to bfloat16, as most models are published. Speed: all engines are up and asked in turn. Quality: perplexity of the text
in this repository's docs, in windows.
Writes benchmarks/results/precision.json.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repository" / "primary" / "1"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from llm.attention import IMPLEMENTATION
from llm.config import EngineConfig
from llm.decoder import build_decoder
from llm.linear import choose_pack
from llm.model_loader import choose_dtype
from llm.probe import Probe, probe_layers
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import machine, workload
from benchmarks.bench_serving import RESULTS, EngineAlone
from benchmarks.service import ROOT, default_model

# What is compared, and the settings that make it.
PRECISIONS: dict[str, dict[str, str]] = {
    "float32": {},
    "float32, published in bfloat16": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quant_type": "int8"},
}
ROUNDED = "float32, published in bfloat16"
WINDOW = 512


def speed(models: dict[str, Path], streams: list[int], repeats: int) -> dict[str, dict[int, float]]:
    """Median tokens/s by precision and number of streams."""
    engines = {
        name: EngineAlone(str(models[name]), *(f"{key}={value}" for key, value in settings.items()))
        for name, settings in PRECISIONS.items()
    }
    speeds: dict[str, dict[int, list[float]]] = {name: {count: [] for count in streams} for name in PRECISIONS}
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
def perplexity(folder: Path, precision: str, text: str) -> float:
    """Of the text's tokens, each predicted from those before it in its window."""
    cpu, config = torch.device("cpu"), EngineConfig.from_settings({"model_name": "measured", **PRECISIONS[precision]})
    dtype = choose_dtype(config, cpu)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=IMPLEMENTATION)
    pack = choose_pack(cpu, dtype, config.quant_type)
    decoder = build_decoder(model, probe_layers(model), pack)
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
    losses: list[torch.Tensor] = []
    for window in tqdm(torch.split(ids, WINDOW), desc=f"perplexity, {precision}", unit="window"):
        positions = torch.arange(len(window))
        logits = decoder(window, positions, positions, Probe()).float()
        losses.append(cross_entropy(logits[:-1], window[1:], reduction="none"))
    return float(torch.cat(losses).mean().exp())


def rounded(folder: Path, into: Path) -> Path:
    """A copy of the model in `folder` whose weights are bfloat16."""
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(into)
    AutoTokenizer.from_pretrained(folder).save_pretrained(into)
    return into


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    arguments = parser.parse_args()
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(file.read_text() for file in files)
    with tempfile.TemporaryDirectory() as copy:
        models = {name: default_model() for name in PRECISIONS}
        models[ROUNDED] = rounded(default_model(), Path(copy))
        result: dict[str, Any] = {
            "tokens/s": speed(models, arguments.streams, arguments.repeats),
            "perplexity": {name: round(perplexity(models[name], name, text), 3) for name in PRECISIONS},
            "characters": len(text),
        }
    print(json.dumps(result, indent=1))
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), **result}
    (RESULTS / "precision.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
