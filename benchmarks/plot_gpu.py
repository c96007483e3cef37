"""The picture of bench_gpu.py's figures."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt


def plot(table: list[dict[str, Any]], path: Path) -> None:
    """Tokens per second of the three ways over the number of streams, both axes logarithmic."""
    figure, axes = plt.subplots(figsize=(7, 4))
    streams = [line["streams"] for line in table]
    for way, label in (
        ("engine", "engine alone"),
        ("port 3003", "through Triton, proxy and SSE"),
        ("transformers", "transformers, continuous batching"),
    ):
        axes.plot(streams, [line[f"{way} tokens/s"] for line in table], marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(streams, [str(count) for count in streams])
    axes.set_xlabel("requests at once")
    axes.set_ylabel("tokens / s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
