"""Draws docs/dashboard.png: the Grafana dashboard's own queries, asked of a real Prometheus after a mixed load.

Usage: .venv/bin/python benchmarks/draw_dashboard.py [--seconds 240]

It needs Debian's `prometheus`. Grafana has no part in it: the picture shows what the dashboard asks, not how it looks.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks import mixed_load
from benchmarks.dashboard import Panel, panels
from benchmarks.prometheus import Prometheus
from benchmarks.service import Service

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "dashboard.png"
STEP = 2.0
# $__rate_interval, as short as this short load asks for.
INTERVAL = "20s"
_UNITS = {"s": "seconds", "reqps": "per second", "percentunit": "share", "bytes": "bytes", "short": ""}


def draw(prometheus: Prometheus, start: float, end: float) -> None:
    """Ask every query and draw every panel where the dashboard has it."""
    shown = panels()
    height = max(panel.place[1] + panel.place[3] for panel in shown)
    figure = plt.figure(figsize=(18, height * 0.42), facecolor="#f4f5f5")
    for panel in shown:
        x, y, width, tall = panel.place
        if panel.kind == "row":
            figure.text(0.008, 1 - (y + 0.75) / height, panel.title, fontsize=12, fontweight="bold")
            continue
        gap_x, gap_y = 0.035, 1.2 / height
        box = (x / 24 + gap_x, 1 - (y + tall) / height + gap_y, width / 24 - gap_x - 0.01, tall / height - 2 * gap_y)
        axes = figure.add_axes(box)
        axes.set_title(panel.title, fontsize=9, loc="left")
        if panel.kind == "stat":
            _stat(axes, prometheus, panel, end)
        else:
            _lines(axes, prometheus, panel, start, end)
    at = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d")
    figure.text(0.99, 0.002, f"drawn from the dashboard's queries, not by Grafana; {at}", ha="right", fontsize=8)
    figure.savefig(PICTURE, dpi=70)


def _stat(axes: Axes, prometheus: Prometheus, panel: Panel, end: float) -> None:
    axes.axis("off")
    found: list[dict[str, Any]] = prometheus.range(panel.queries[0].for_prometheus(INTERVAL), end - 3 * STEP, end, STEP)
    value = float(found[0]["values"][-1][1]) if found else float("nan")
    text = f"{value:.1%}" if panel.unit == "percentunit" else f"{value:.3g}"
    axes.text(0.5, 0.4, text, fontsize=22, ha="center", va="center", color="#1f78b4")


def _lines(axes: Axes, prometheus: Prometheus, panel: Panel, start: float, end: float) -> None:
    for query in panel.queries:
        for series in prometheus.range(query.for_prometheus(INTERVAL), start, end, STEP):
            points = [(float(at) - start, float(value)) for at, value in series["values"] if value != "NaN"]
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1.1, label=query.name(series["metric"]))
    axes.set_xlim(0, end - start)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=7)
    axes.set_ylabel(_UNITS[panel.unit], fontsize=7)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=6, loc="upper left", ncols=2)


def main() -> None:
    """Start service and Prometheus, load them, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--port", type=int, default=9090, help="for Prometheus")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder)) as service:
        targets = {
            "triton": f"127.0.0.1:{os.environ.get('TAKEOFF_TRITON_METRICS_PORT', '8002')}",
            "proxy": service.url.removeprefix("http://"),
        }
        with Prometheus(Path(folder), arguments.port, targets) as prometheus:
            start = time.time() + 5
            time.sleep(5)
            # Calm, then more clients than there are places would like, then calm.
            third = arguments.seconds / 3
            for concurrency in (4, 24, 8):
                asyncio.run(mixed_load.run(service.url, third, concurrency))
            draw(prometheus, start, time.time())


if __name__ == "__main__":
    main()
