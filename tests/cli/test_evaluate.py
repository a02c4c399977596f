"""`forebear evaluate`: the verbs from the command line, their settings files, and what they refuse."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from forebear.cli.evaluate import evaluate

QUICK = "{queries: 2, norm_samples: 0, top: 2}"


def test_specificity_tracing_families_and_report(embedded_run: Path, forebear, tmp_path: Path) -> None:
    settings = tmp_path / "quick.yaml"
    settings.write_text(QUICK)
    groups = tmp_path / "groups.yaml"
    groups.write_text("{queries: 2, steps: 2, groups: [class]}")
    for arguments in (
        ("specificity", "--config", settings, "--top", 3, "--estimator", "tracin"),
        ("tracing", "--queries", 2, "--estimator", "retrac", "--name", "traced"),
        ("families", "--config", groups, "--estimator", "tracin"),
        ("outliers", "--planted-group", "class=three", "--planted-group", "class=five", "--estimator", "tracin"),
    ):
        result = forebear("evaluate", arguments[0], "--run", embedded_run, *arguments[1:])
        assert result.exit_code == 0, result.output
        assert "pixel" in result.output
        assert "95 % interval" in result.output
    kept = json.loads((embedded_run / "evaluation" / "specificity" / "result.json").read_text())
    assert (kept["settings"]["queries"], kept["settings"]["top"]) == (2, 3)
    outliers = json.loads((embedded_run / "evaluation" / "outliers" / "result.json").read_text())
    assert set(outliers["facts"]["planted"]) == {"three", "five"}
    out = tmp_path / "page.html"
    result = forebear("evaluate", "report", "--run", embedded_run, "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.output
    evaluations = set(pq.read_table(out.with_suffix(".parquet"))["evaluation"].to_pylist())
    assert evaluations == {"specificity", "traced", "families", "outliers"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("specificity", "--config", "SETTINGS"), ("queriez",)),
        (("specificity", "--estimator", "oracle"), ("oracle", "retrac")),
        (("tracing", "--estimator", "dtrak"), ("square", "--restart")),
        (("outliers", "--planted-group", "class=hundred"), ("class=hundred",)),
        (("tracing", "--name", "../elsewhere"), ("../elsewhere",)),
    ],
)
def test_refusals_are_one_line(
    embedded_run: Path, forebear, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    settings = tmp_path / "wrong.yaml"
    settings.write_text("{queriez: 2}")
    given = [settings if argument == "SETTINGS" else argument for argument in arguments]
    result = forebear("evaluate", given[0], "--run", embedded_run, *given[1:])
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert all(word in line for word in words)


def test_pairs_that_are_none(embedded_run: Path, forebear) -> None:
    result = forebear("evaluate", "outliers", "--run", embedded_run, "--planted-group", "three")
    assert result.exit_code == 2
    assert "GROUP=VALUE" in result.output


@pytest.mark.parametrize("verb", ["lds", "specificity", "tracing", "outliers", "removal", "families", "report"])
def test_every_evaluation_has_help(verb: str, forebear) -> None:
    assert verb in evaluate.commands
    result = forebear("evaluate", verb, "--help")
    assert result.exit_code == 0
    assert "--run" in result.output
