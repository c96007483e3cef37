"""The Grafana dashboard of docker/grafana/ as data: its panels, and the queries in them as Prometheus takes them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "docker" / "grafana" / "dashboards" / "slipstream.json"
# Whatever looks like a metric's name in PromQL and is followed by labels, a range or nothing of a function.
_NAME = re.compile(r"\b((?:slipstream|gen_ai|process|nv)_[a-z0-9_]+|up)\b(?=[\s{\[)]|$)")


@dataclass(frozen=True)
class Query:
    """One line, or bundle of lines, of a panel."""

    expression: str
    legend: str

    def for_prometheus(self, interval: str, model: str = ".*") -> str:
        """The expression with Grafana's variables filled in."""
        return self.expression.replace("$__rate_interval", interval).replace("$model", model)

    def name(self, labels: dict[str, str]) -> str:
        """The legend of a series with these labels."""
        return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True)
class Panel:
    """One picture of the dashboard; a `row` is a heading."""

    title: str
    kind: str
    unit: str
    place: tuple[int, int, int, int]
    queries: tuple[Query, ...]


def panels() -> list[Panel]:
    """All panels, in order; places are x, y, width and height on a grid of 24 columns."""
    return [
        Panel(
            panel["title"],
            panel["type"],
            panel.get("fieldConfig", {}).get("defaults", {}).get("unit", ""),
            tuple(panel["gridPos"][key] for key in "xywh"),
            tuple(Query(target["expr"], target["legendFormat"]) for target in panel.get("targets", [])),
        )
        for panel in json.loads(FILE.read_text())["panels"]
    ]


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    without_labels = re.sub(r"{[^}]*}", "{}", expression)
    without_groups = re.sub(r"\b(?:by|on|without|ignoring) ?\([^)]*\)", "", without_labels)
    return set(_NAME.findall(without_groups))
