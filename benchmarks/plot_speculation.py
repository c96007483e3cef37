"""The picture of bench_speculation.py's figures."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt


def plot(table: list[dict[str, Any]], path: Path) -> None:
    """How many times the tokens per second of one stream drafts give, by task and temperature."""
    lines = [line for line in table if line["streams"] == table[0]["streams"]][::-1]
    temperatures = [name for name in lines[0] if name not in ("streams", "task")]
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for number, temperature in enumerate(temperatures):
        places = [at + 0.27 * (len(temperatures) / 2 - 0.5 - number) for at in range(len(lines))]
        bars = axes.barh(places, [line[temperature] for line in lines], 0.25, label=f"temperature {temperature}")
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [line["task"] for line in lines])
    axes.set_xlabel("tokens / s with drafts, as a multiple of those without")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
