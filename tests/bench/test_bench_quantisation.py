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
    parts = ("naive", "adaround", "tiar", "fsc", "cache", "selection")
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
        )
        for name, one in found.items()
        if name.startswith("w4a8")
    ]
    assert told == [
        ("minmax", "nearest", "none", "none", "block"),
        ("error", "adaround", "none", "none", "block"),
        ("error", "adaround", "feedback", "none", "block"),
        ("error", "adaround", "feedback", "all", "block"),
        ("error", "adaround", "feedback", "all", "cache"),
        ("error", "adaround", "feedback", "all", "selected"),
    ]
    assert {one.rounding.iterations for one in found.values()} == {7}
    assert {one.rounding.learning_rate for one in found.values()} == {0.01}
    # Parts that are left out still count for those after them.
    assert ablation(chosen, ["w4a8"], ["cache"], 7) == {"w4a8-cache": found["w4a8-cache"]}


def test_the_page_has_a_row_for_each_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from bench_quantisation import page

    figures = (
        Figure.of("fp32", "bytes", Interval(8, float("nan"), float("nan")), 1, "on disk"),
        Figure.of("w4a8-naive", "SSIM", Interval(0.5, 0.25, 0.75), 3),
    )
    machine = {"processor": "P", "identity": "i", "usable_cores": 2}
    lines = page(Result("quantization", "q", {}, figures, {}), machine).splitlines()
    assert lines[-4:] == [
        "| generator | bytes, on disk | SSIM |",
        "| --- | --- | --- |",
        "| fp32 | 8 |  |",
        "| w4a8-naive |  | 0.5 (0.25 to 0.75) |",
    ]
