"""docs/services.md: every setting with its default, every status, what the example says."""

from dataclasses import fields
from pathlib import Path

import pytest

from forebear_serve.gateway.errors import WORDS
from forebear_serve.settings import AttributorSettings, GeneratorSettings, Limits, Replicas, ServeSettings

PAGE = (Path(__file__).parents[2] / "docs" / "services.md").read_text(encoding="utf-8")


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
