"""The picture of bench_serving.py's figures."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt


def plot(table: list[dict[str, float]], path: Path) -> None:
    """Tokens per second of both ways, side by side for each number of streams."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for shift, way in ((-0.2, "engine"), (0.2, "port 3003")):
        heights = [line[f"{way} tokens/s"] for line in table]
        label = {"engine": "engine alone", "port 3003": "through Triton, proxy and SSE"}[way]
        bars = axes.bar([at + shift for at in range(len(table))], heights, width=0.38, label=label)
        axes.bar_label(bars, fmt="%.0f")
    axes.set_xticks(range(len(table)), [f"{line['streams']:.0f}" for line in table])
    axes.set_xlabel("requests at once")
    axes.set_ylabel("tokens / s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
