"""What drafts gain (`TAKEOFF_SPECULATIVE_TOKENS`): the engine with and without them, by what answers repeat.

Usage: .venv/bin/python benchmarks/bench_speculation.py [--repeats 2] [--streams 1 4] [SETTING=VALUE ...]

Both engines are up and asked in turn, for the same answers: a seed's text does not depend on drafts. Settings, such as
quant_type=int8, are for both. Writes benchmarks/results/speculation.json and speculation.png.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from benchmarks import machine
from benchmarks.bench_serving import RESULTS, EngineAlone
from benchmarks.plot_speculation import plot
from benchmarks.service import default_model

_ARTICLE = (
    "An inference server keeps models in memory and answers requests for them. It takes many requests at once, runs "
    "them in one batch, and sends the words as they come. Whoever asks sees the first of them soon, and none twice. "
    "Triton Inference Server is one of them; it was made by NVIDIA and serves models of many frameworks, among them "
    "PyTorch, TensorFlow and ONNX. Its Python backend lets a model be a Python class."
)
_CODE = """def load(path):
    with open(path) as file:
        data = json.load(file)
    result = []
    for item in data:
        if item["ok"]:
            result.append(item["value"])
    return result
"""
# From answers that repeat their prompt to those that repeat hardly anything.
TASKS = {
    "correct a text": f"Correct the spelling and repeat the text:\n{_ARTICLE}",
    "edit code": f"Add a docstring and type hints to this function:\n```python\n{_CODE}```",
    "extract as JSON": f"Extract all names of companies and products from this text as JSON:\n{_ARTICLE}",
    "answer from a text": f"{_ARTICLE}\nQuestion: who made Triton, and which frameworks does it serve?",
    "summarise": f"Summarise this text:\n{_ARTICLE}",
    "list": "List the planets with one fact for each.",
    "explain": "Explain how rainbows form.",
    "tell a story": "Write a short story about a fox.",
}
TEMPERATURES = (0.0, 0.7, 1.0)
NUM_NEW_TOKENS = 128


def bodies(task: str, temperature: float, repeat: int, count: int) -> list[dict[str, Any]]:
    """One question by several at once, who get texts of their own."""
    return [
        {
            "messages": [{"role": "user", "content": TASKS[task]}],
            "max_tokens": NUM_NEW_TOKENS,
            "temperature": temperature,
            "seed": 100 * repeat + number,
        }
        for number in range(count)
    ]


def measure(settings: list[str], streams: list[int], repeats: int) -> list[dict[str, Any]]:
    """Ask both engines in turn; tokens per second from the first token on."""
    engines = {
        name: EngineAlone(str(default_model()), f"speculative_tokens={number}", *settings)
        for name, number in (("without", 0), ("with", 7))
    }
    rows = []
    cases = [(count, task, temperature) for count in streams for task in TASKS for temperature in TEMPERATURES]
    rounds = [(repeat, *case) for repeat in range(repeats) for case in cases]
    for engine in engines.values():
        engine.run(bodies("list", 0.0, 0, 1))
    for repeat, count, task, temperature in tqdm(rounds, desc="rounds", unit="round"):
        asked = bodies(task, temperature, repeat, count)
        for engine in engines.values():
            engine.run([{**body, "max_tokens": 1} for body in asked[:1]])  # both have read the prompt before
        found = {name: engine.run(asked) for name, engine in engines.items()}
        assert found["with"]["num_tokens"] == found["without"]["num_tokens"], "drafts have changed an answer"
        speeds = {f"{name} tokens/s": each["num_tokens"] / each["seconds"] for name, each in found.items()}
        rows.append({"streams": count, "task": task, "temperature": temperature, "repeat": repeat, **speeds})
    for engine in engines.values():
        engine.close()
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of streams and task the median ratios by temperature."""
    table = []
    for count in sorted({row["streams"] for row in rows}):
        for task in TASKS:
            line: dict[str, Any] = {"streams": count, "task": task}
            for temperature in TEMPERATURES:
                mine = [row for row in rows if (row["streams"], row["task"]) == (count, task)]
                mine = [row for row in mine if row["temperature"] == temperature]
                line[str(temperature)] = round(
                    median(row["with tokens/s"] / row["without tokens/s"] for row in mine), 2
                )
            table.append(line)
    return table


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    rows = measure(arguments.settings, arguments.streams, arguments.repeats)
    table = summarise(rows)
    for line in table:
        print(line)
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), "summary": table, "rows": rows}
    (RESULTS / "speculation.json").write_text(json.dumps(kept, indent=1) + "\n")
    plot(table, RESULTS / "speculation.png")


if __name__ == "__main__":
    main()
