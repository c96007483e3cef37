"""Draws docs/trace.png from a trace that a collector on loopback got from the real service for one real request.

Usage: .venv/bin/python benchmarks/draw_trace.py
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.otlp_receiver import OtlpReceiver, ReceivedSpan
from benchmarks.service import Service

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "trace.png"
_COLOURS = {"slipstream-proxy": "#a6cee3", "slipstream-engine": "#b2df8a"}


def record() -> list[ReceivedSpan]:
    """The spans of one streamed chat beside another one, once the model is warm."""
    with tempfile.TemporaryDirectory() as folder, OtlpReceiver() as receiver:
        with Service(Path(folder), **receiver.environ) as service:
            body = {"model": "primary", "messages": [{"role": "user", "content": "What is a river?"}], "stream": True}
            for number in (1, 2):
                trace_id = f"{number:032x}"
                headers = {"traceparent": f"00-{trace_id}-{number:016x}-01"}
                url = f"{service.url}/v1/chat/completions"
                httpx.post(url, json={**body, "max_tokens": 24}, headers=headers, timeout=120)
                spans = receiver.spans(6, trace_id)
        return spans


def draw(spans: list[ReceivedSpan]) -> None:
    """A line for each span, children below their parents."""
    ordered = _with_children(spans, next(s for s in spans if s.parent_id not in {o.span_id for o in spans}))
    zero = ordered[0].start
    figure, axes = plt.subplots(figsize=(11, 3.2))
    for line, span in enumerate(ordered):
        start, end = (span.start - zero) / 1e6, (span.end - zero) / 1e6
        axes.barh(line, end - start, left=start, height=0.6, color=_COLOURS[span.service])
        axes.text(start + 3, line, f"{span.name}   {end - start:.1f} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(ordered)), [span.service for span in ordered], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds since the request's head")
    usage = ordered[2].attributes
    tokens = f"{usage['gen_ai.usage.input_tokens']} prompt and {usage['gen_ai.usage.output_tokens']} new tokens"
    axes.set_title(f"One streamed chat, {tokens}: a recorded trace", fontsize=10, loc="left")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=90)


def _with_children(spans: list[ReceivedSpan], span: ReceivedSpan) -> list[ReceivedSpan]:
    children = sorted((other for other in spans if other.parent_id == span.span_id), key=lambda other: other.start)
    return [span, *(line for child in children for line in _with_children(spans, child))]


if __name__ == "__main__":
    draw(record())
