"""The ablation: every part lies over those before it, and the committed settings are settings."""

from pathlib import Path

import pytest

from forebear.config import parse, read_yaml
from forebear.evaluation.figures import Figure, Result
from forebear.evaluation.metrics import Interval
from forebear_generators.evaluation.settings import GeneratorsConfig

BENCH = Path(__file__).parent


def test_every_part_lies_over_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from bench_quantisation import CONFIG, ablation

    chosen = read_yaml(CONFIG)
    parse(GeneratorsConfig, chosen["evaluation"], CONFIG.name)
    parts = ("naive", "adaround", "tiar", "fsc", "cache", "selection", "feedback", "wide")
    assert tuple(chosen["parts"]) == parts
    found = ablation(chosen, chosen["variants"], parts, 7)
    assert list(found) == [f"{variant}-{part}" for variant in ("w8a8", "w4a8", "w4a32") for part in parts]
    told = [
        (
            one.weights.search,
            one.rounding.method,
            one.temporal.reconstruction,
            one.temporal.per_step,
            one.temporal.maintenance,
            one.weights.share,
        )
        for name, one in found.items()
        if name.startswith("w4a8")
    ]
    assert told == [
        ("minmax", "nearest", "none", "none", "block", 0),
        ("error", "adaround", "none", "none", "block", 0),
        ("error", "adaround", "feedback", "none", "block", 0),
        ("error", "adaround", "feedback", "all", "block", 0),
        ("error", "adaround", "feedback", "all", "cache", 0),
        ("error", "adaround", "feedback", "all", "selected", 0),
        ("error", "feedback", "feedback", "all", "selected", 0),
        ("error", "feedback", "feedback", "all", "selected", 0.15),
    ]
    assert {one.rounding.iterations for one in found.values()} == {7}
    assert {one.rounding.learning_rate for one in found.values()} == {0.04}
    # Parts that are left out still count for those after them.
    assert ablation(chosen, ["w4a8"], ["cache"], 7) == {"w4a8-cache": found["w4a8-cache"]}


def test_the_page_has_a_table_for_each_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from bench_quantisation import page

    nothing = float("nan")
    figures = (
        Figure.of("fp32", "share of bytes", Interval(1, nothing, nothing), 1, "on disk"),
        Figure.of("fp32, other seeds", "PSNR, dB", Interval(20.04, 19, 21), 3),
        Figure.of("w4a8-naive", "PSNR, dB", Interval(25.06, 24, 26), 3),
        Figure.of("w4a8-naive", "temporal features", Interval(0.041, nothing, nothing), 1, "mismatches"),
        Figure.of("w8a8-naive", "PSNR, dB", Interval(40, 39, 41), 3),
        Figure.of("w8a8-naive", "seconds per step", Interval(1, 1, 1), 3),
    )
    machine = {"processor": "P", "identity": "i", "usable_cores": 2}
    result = Result("quantization", "q", {}, figures, {"queries": 3, "steps": 50})
    assert page({"Drawings": result}, machine).splitlines()[7:] == [
        "## Drawings",
        "",
        "3 pictures, 50 steps.",
        "",
        "| | PSNR, dB | mismatches, % | share on disk |",
        "| --- | --- | --- | --- |",
        "| fp32 |  |  | 1.000 |",
        "| fp32, other seeds | 20.0 (19.0 to 21.0) |  |  |",
        "| w4a8-naive | 25.1 (24.0 to 26.0) | 4.1 |  |",
        "",
        "| | PSNR, dB | share on disk |",
        "| --- | --- | --- |",
        "| fp32 |  | 1.000 |",
        "| fp32, other seeds | 20.0 (19.0 to 21.0) |  |",
        "| w8a8-naive | 40.0 (39.0 to 41.0) |  |",
    ]
