"""The picture of bench_grammar.py's figures."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt


def plot(result: dict[str, Any], path: Path) -> None:
    """Time to compile a schema and to fill a mask, by library and vocabulary, on logarithmic axes."""
    rows = {title: row for title, row in result.items() if "mask us" in row}
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
    for axes, key, unit in zip(panels, ("compile ms", "mask us"), ("ms", "µs"), strict=True):
        for shift, rank in ((-0.25, "p50"), (0, "p99"), (0.25, "max")):
            lengths = [row[key][rank] for row in rows.values()]
            bars = axes.barh([at + shift for at in range(len(rows))], lengths, height=0.23, label=rank)
            axes.bar_label(bars, fmt="%.4g", padding=2, fontsize=8)
        axes.set_xscale("log")
        axes.set_xlabel(f"{key.split()[0]} a schema, {unit}" if key.startswith("compile") else f"a mask, {unit}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].invert_yaxis()
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="upper center", ncols=3)
    figure.savefig(path, dpi=120)
