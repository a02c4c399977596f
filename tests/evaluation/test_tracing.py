"""Tracing: the transforms themselves, and that copies of training pictures are found."""

import colorsys

import numpy as np
import pyarrow.parquet as pq
import pytest

from forebear.errors import ConfigError
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.tracing import (
    TracingConfig,
    brightened,
    cropped,
    flipped,
    hue_turned,
    run_tracing,
    twins,
)
from forebear.run import Run


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (3, 8, 8)).astype(np.float32)


def test_copies_are_found_and_chance_does_not_find_them(evaluation_run: Run) -> None:
    config = TracingConfig(queries=8, estimators=("retrac-matched",), recall_at=(1, 5))
    found = run_tracing(evaluation_run, config, "tracing-test")
    assert found.value("retrac-matched", "recall@1", "copy").value == 1.0
    assert found.value("retrac-matched", "MRR", "copy").value == 1.0
    assert found.value("pixel", "recall@1", "copy").value == 1.0
    assert found.value("random", "recall@1", "copy").value < 0.5
    assert {one.variant for one in found.figures} == {"copy", "flip", "crop", "brightness"}  # digits are grey
    assert found.facts["mean_change"]["copy"] == 0.0
    assert min(found.facts["mean_change"][name] for name in ("flip", "crop", "brightness")) > 0.01
    details = pq.read_table(evaluation_run.folder / "evaluation" / "tracing-test" / "details.parquet").to_pandas()
    assert len(details) == 8 * 3 * 4
    ranks = details[(details.estimator == "pixel") & (details["transform"] == "flip")]["rank"]
    assert found.value("pixel", "MRR", "flip").value == pytest.approx((1 / ranks).mean())
    assert found.value("pixel", "recall@5", "flip").value == pytest.approx((ranks <= 5).mean())


def test_no_transform_is_left_for_grey_pictures(evaluation_run: Run) -> None:
    with pytest.raises(ConfigError, match="hue"):
        run_tracing(evaluation_run, TracingConfig(queries=2, transforms=("hue",)))


def test_twins_are_counted(evaluation_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = EvaluatedRun.open(evaluation_run)
    assert twins(evaluated, [0, 1]) == 0
    own = evaluated.pixels
    monkeypatch.setattr(evaluated, "pixels", lambda row: own(0 if row == 5 else row))
    assert twins(evaluated, [0, 1, 5]) == 2


def test_flip_and_brightness(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(flipped(flipped(pixels)), pixels)
    np.testing.assert_array_equal(flipped(pixels)[:, :, 0], pixels[:, :, -1])
    levels = (pixels + 1) / 2
    np.testing.assert_allclose((brightened(pixels, 0.5) + 1) / 2, levels * 0.5, atol=1e-6)
    assert brightened(pixels, 3.0).max() == 1.0


def test_crop_enlarges_the_middle() -> None:
    ramp = np.tile(np.linspace(-1, 1, 32, dtype=np.float32), (3, 32, 1))
    found = cropped(ramp, 0.5)
    assert found.shape == ramp.shape
    assert found[0, 16, 0] == pytest.approx(-0.5, abs=0.06)
    assert found[0, 16, -1] == pytest.approx(0.5, abs=0.06)
    assert found[0, 16, 16] == pytest.approx(0.0, abs=0.06)


def test_hue_turns_a_third_from_red_to_green(pixels: np.ndarray) -> None:
    red = np.stack([np.full((2, 2), level, np.float32) for level in (1.0, -1.0, -1.0)])
    np.testing.assert_allclose(hue_turned(red, 1 / 3), np.roll(red, 1, 0), atol=1e-6)
    grey = np.zeros((3, 2, 2), np.float32)
    np.testing.assert_allclose(hue_turned(grey, 0.25), grey, atol=1e-6)
    turned = hue_turned(pixels, 0.25)
    before, after = (colorsys.rgb_to_hsv(*((one[:, 3, 4] + 1) / 2)) for one in (pixels, turned))
    assert after[0] == pytest.approx((before[0] + 0.25) % 1.0, abs=1e-5)
    assert after[1:] == pytest.approx(before[1:], abs=1e-5)
