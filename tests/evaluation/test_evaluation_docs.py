"""docs/evaluation.md names every setting, with its default where it is one number, and its examples are settings."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from forebear.config import parse, plain
from forebear.evaluation.families import FamiliesConfig
from forebear.evaluation.outliers import OutliersConfig
from forebear.evaluation.planting import PlantingConfig
from forebear.evaluation.removal import RemovalConfig
from forebear.evaluation.specificity import SpecificityConfig
from forebear.evaluation.tracing import TracingConfig

DOCS = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
CONFIGS = {
    "specificity": SpecificityConfig,
    "tracing": TracingConfig,
    "outliers": OutliersConfig,
    "removal": RemovalConfig,
    "families": FamiliesConfig,
}


def chapter(name: str) -> str:
    return DOCS.split(f"\n## {name}\n")[1].split("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """By setting, its default as the table gives it."""
    found = {}
    for names, defaults in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", text, re.MULTILINE):
        settings = re.findall(r"`([^`]*)`", names)
        values = defaults.split(", ") if len(settings) > 1 else [defaults]
        found.update(zip(settings, values + [values[-1]] * len(settings), strict=False))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_is_in_its_table(name: str) -> None:
    documented = rows(chapter(name))
    config: Any = CONFIGS[name]()
    expected = {field.name for field in fields(config)} - {"planting"}
    if name == "outliers":
        expected |= {f"planting.{field.name}" for field in fields(PlantingConfig)}
    assert set(documented) == expected
    values = plain(config) | {f"planting.{key}": value for key, value in plain(PlantingConfig()).items()}
    for setting, default in documented.items():
        if isinstance(values[setting], int | float):
            assert float(default) == values[setting], setting


def test_examples_are_settings() -> None:
    examples = re.findall(r"```yaml\n# (\w+)\.yaml\n(.*?)```", DOCS, re.DOTALL)
    assert {name for name, _ in examples} == {"outliers", "removal"}
    for name, text in examples:
        parse(CONFIGS[name], yaml.safe_load(text), name)
