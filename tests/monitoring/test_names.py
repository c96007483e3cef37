"""What the docs, the dashboard and the alerts name is what is really exported, and nothing exported is left out."""

import re
from collections.abc import Iterator

import pytest
import yaml
from metric_families import FAMILIES
from prometheus_client.metrics import MetricWrapperBase

from benchmarks.dashboard import metric_names, panels
from benchmarks.prometheus import FILES
from proxy import workers
from proxy.groups import Groups
from proxy.meter import Meter
from tests.launch.launched import ROOT
from tests.proxy.fakes import FakeBackend

ROW = re.compile(r"^\| `((?:slipstream|gen_ai)_\w+)` \| (\w+) \|(.*?)\|", re.MULTILINE)
NOT_OURS = {"up", "process_resident_memory_bytes"}


def exported() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and labels of every family, by its name; `model` of the engine's goes without saying."""
    meter = Meter(Groups(FakeBackend()))
    kept = [value.__wrapped__.__self__ if hasattr(value, "__wrapped__") else value for value in vars(meter).values()]
    ours = [value for value in kept if isinstance(value, MetricWrapperBase)]
    families = {name: (family.kind, family.labels) for name, family in FAMILIES.items()}
    for metric in (*ours, workers.restarts()):
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        families[name] = (family.type, tuple(metric._labelnames))
    families |= {family.name: (family.type, ("model",)) for family in meter.collect()}
    return families


def samples() -> set[str]:
    """The names under which Prometheus keeps these families."""
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + suffix for name, (kind, _) in exported().items() for suffix in suffixes.get(kind, ("",))}


def test_the_docs_table_is_what_is_exported():
    page = (ROOT / "docs" / "metrics.md").read_text()
    described = {name: (kind, labels) for name, kind, labels in ROW.findall(page)}
    families = exported()
    assert set(described) == set(families)
    for name, (kind, labels) in families.items():
        assert described[name][0] == kind, name
        column = described[name][1].strip()
        assert all(f"`{label}`" in column for label in labels), name
        assert bool(labels) == bool(column), name


def expressions() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for query in panel.queries:
            yield f"panel {panel.title}", query.expression
    for group in yaml.safe_load((FILES / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_dashboard_and_alerts_read_nothing_that_is_not_exported(where: str, expression: str):
    names = metric_names(expression)
    assert names, "a query that reads no metric"
    assert names <= samples() | NOT_OURS


def test_names_in_an_expression_are_found():
    """So that the test above sees a name that is wrong."""
    expression = 'histogram_quantile(0.5, sum by (le, model) (rate(slipstream_x_bucket{a="gen_ai_y"}[5m]))) > 1 and up'
    assert metric_names(expression) == {"slipstream_x_bucket", "up"}


def test_every_alert_is_tested_and_every_panel_has_a_place_of_its_own():
    rules = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((FILES / "alerts_test.yml").read_text())["tests"]
    firing = {t["alertname"] for test in tests for t in test["alert_rule_test"] if t.get("exp_alerts")}
    assert firing == {rule["alert"] for rule in rules}
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        x, y, width, height = panel.place
        cells = {(column, line) for column in range(x, x + width) for line in range(y, y + height)}
        assert x + width <= 24
        assert not cells & taken
        taken |= cells
