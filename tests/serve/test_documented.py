"""docs/services.md: every setting with its default, every status, what the example says."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from forebear_serve.gateway.errors import WORDS
from forebear_serve.gateway.measuring import Measures
from forebear_serve.settings import AttributorSettings, GeneratorSettings, Limits, Replicas, ServeSettings

PAGES = Path(__file__).parents[2] / "docs"
PAGE = (PAGES / "services.md").read_text(encoding="utf-8")


def row(name: str) -> list[str]:
    """The cells of the table row that names a setting."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and name in cells[0].replace("`", "").replace(",", " ").split():
            return cells
    raise AssertionError(f"{name} is not in docs/services.md")


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [(ServeSettings, ""), (GeneratorSettings, "generators.NAME."), (AttributorSettings, "attributor."), (Replicas, "")],
)
def test_every_setting_is_there(kind: type, prefix: str) -> None:
    for one in fields(kind):
        if one.name in {"generators", "attributor", "limits"}:
            continue  # their own settings are
        assert row(f"{prefix}{one.name}")[-1] or one.name in PAGE


def test_limits_are_there_with_their_defaults() -> None:
    for one in fields(Limits):
        cells = row(f"limits.{one.name}" if f"limits.{one.name}" in PAGE else one.name)
        shown = cells[1].replace(" MB", "000000").replace(" million", "000000").replace(",", "")
        assert f"{one.default:g}" in {f"{float(value):g}" for value in shown.split()}, one.name


def test_every_status_is_there() -> None:
    for status in WORDS:
        assert str(status) in PAGE.split("## Errors")[1].split("## Settings")[0]


def test_the_grafana_dashboard_asks_for_metrics_that_there_are() -> None:
    measures = Measures()
    measures.request("id", "GET", "/samples", 200, 0.1, "token")
    measures.stages({"generate": 1.0})
    measures.picture(cached=False)
    measures.active.set(1)
    measures.recall({"retrac": {"kind": "codes", "recall": {"at_10": 0.99}}, "pixel": {"kind": "exact"}})
    text = measures.text().decode()
    board = json.loads((PAGES.parent / "deploy" / "monitoring" / "grafana-services.json").read_text())
    asked = {
        name for panel in board["panels"] for target in panel["targets"]
        for name in re.findall(r"\bforebear_\w+", target["expr"])
    }  # fmt: skip
    assert len(asked) >= 5
    assert not [name for name in asked if f"\n{name}{{" not in text and f"\n{name} " not in text]
    for name in re.findall(r"`(forebear_\w+)`", PAGE.split("## Metrics")[1]):
        assert f"\n# TYPE {name.removesuffix('_total')}" in text or f"\n# TYPE {name} " in text
