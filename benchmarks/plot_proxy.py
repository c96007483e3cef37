"""The picture of bench_proxy.py's figures."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

_PANELS = {
    "requests/s per core": "requests/s of a core",
    "chunks/s per core": "streamed chunks/s of a core",
    "request ms p50": "a request alone, ms (p50)",
    "request ms p99": "a request alone, ms (p99)",
}


def plot(summary: dict[str, dict[str, float]], path: Path) -> None:
    """A panel for each figure, a bar for each server."""
    figure, panels = plt.subplots(1, len(_PANELS), figsize=(13, 2.2), sharey=True)
    for axes, (key, title) in zip(panels, _PANELS.items(), strict=True):
        values = [row[key] for row in summary.values()]
        bars = axes.barh(range(len(summary)), values, color=["#2a6f97", "#bbbbbb", "#bbbbbb"])
        axes.bar_label(
            bars, [f"{value:,.0f}" if value >= 100 else f"{value:g}" for value in values], padding=2, fontsize=8
        )
        axes.set_xticks([])
        axes.margins(x=0.25)
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    panels[0].set_yticks(range(len(summary)), list(summary))
    panels[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
