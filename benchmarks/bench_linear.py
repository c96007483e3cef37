"""How fast each form of a linear layer is on this CPU, by rows: `.venv/bin/python benchmarks/bench_linear.py [FILE]`.

The layers have the shapes of SmolLM2-135M, 30 of each, with their weights apart in memory as a pass meets them: what
fits into a cache when one layer is timed alone does not in a model. Prints milliseconds for all of them.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import torch
from torch.nn.functional import linear

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repository" / "primary" / "1"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llm.linear import Linear, MklLinear, OneDnnLinear, plain_linear
from llm.tiled_int8_linear import TiledInt8Linear
from llm.tiled_linear import TiledLinear

from benchmarks import machine

NUM_LAYERS = 30
SHAPES = {"qkv": (960, 576), "attention out": (576, 576), "gate and up": (3072, 576), "down": (576, 1536)}
# As transformers has them: queries, keys and values for themselves, and so gate and up.
APART = {960: [576, 192, 192], 3072: [1536, 1536]}
ROWS = (1, 4, 8, 16, 32, 64, 128, 512)
REPEATS = 10


def one_scale(weight: torch.Tensor, _bias: torch.Tensor | None) -> Linear:
    """The 8-bit layer of torch; it has one scale for all rows, so that it is here to be compared, not to be used."""
    scales = weight.abs().amax(dim=1) / 127
    zeros = torch.zeros(len(weight), dtype=torch.long)
    packed = torch.ops.quantized.linear_prepack(torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8), None)
    return lambda rows: torch.ops.quantized.linear_dynamic(rows, packed, False)


FORMS = {
    "separate weights": None,
    "plain": plain_linear,
    "MKL layout": MklLinear,
    "oneDNN layout": OneDnnLinear,
    "tiles": TiledLinear,
    "tiles, bfloat16": lambda weight, bias: TiledLinear(weight.bfloat16().float(), bias),
    "8 bits in tiles": TiledInt8Linear,
    "8 bits, one scale": one_scale,
}


@torch.inference_mode()
def measure(name: str) -> dict[int, float]:
    """The best time in milliseconds of all layers, by number of rows."""
    layers = [
        (inputs, _make(name, torch.randn(outputs, inputs) * 0.02))
        for outputs, inputs in SHAPES.values()
        for _ in range(NUM_LAYERS)
    ]
    times = {}
    for num_rows in ROWS:
        rows = {inputs: torch.randn(num_rows, inputs) for inputs, _ in layers}
        best = float("inf")
        for _ in range(REPEATS):
            started = perf_counter()
            for inputs, layer in layers:
                layer(rows[inputs])
            best = min(best, perf_counter() - started)
        times[num_rows] = round(best * 1000, 1)
    return times


def _make(name: str, weight: torch.Tensor) -> Linear:
    form = FORMS[name]
    if form is not None:
        return form(weight, None)
    parts = [part.clone() for part in torch.split(weight, APART.get(len(weight), [len(weight)]))]
    return lambda rows: torch.cat([linear(rows, part) for part in parts], dim=-1)


def main() -> None:
    """Measure each form, print a table, and keep it in FILE when one is given."""
    results = {name: measure(name) for name in FORMS}
    print(f"{'ms at rows':20}" + "".join(f"{rows:>8}" for rows in ROWS))
    for name, times in results.items():
        print(f"{name:20}" + "".join(f"{times[rows]:8.1f}" for rows in ROWS))
    if sys.argv[1:]:
        record = {"machine": machine.describe(), "milliseconds": results}
        Path(sys.argv[1]).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
