"""How often a random query gives a sample such a score: against plain NumPy on the store's vectors."""

import json
from pathlib import Path

import numpy as np
import pytest

from forebear.attribution import Attributor, AuditConfig
from forebear.attribution.auditing import reference_rows
from forebear.attribution.calibration import Calibration, CalibrationDescription, standardised
from forebear.errors import ConfigError
from forebear.estimators import ESTIMATORS
from forebear.run import Run

AUDIT = AuditConfig(references=10)


def plain_scores(attributor: Attributor, column: str, unit: bool) -> np.ndarray:
    """Scores of every training image as a query, with every sample: float64[N, N]."""
    total = np.zeros((24, 24))
    for name in attributor.store.plan.checkpoint_names:
        phi = attributor.store.vectors(name, column).astype(np.float64)
        if unit:
            phi /= np.linalg.norm(phi, axis=1, keepdims=True)
        total += attributor.store.manifest.weights[name] * phi @ phi.T
    return total


@pytest.mark.parametrize("name", ["tracin", "retrac", "cosine", "retrac-matched"])
def test_null_is_that_of_the_stored_vectors(attributor: Attributor, name: str) -> None:
    method = ESTIMATORS[name]
    calibration = attributor.calibration(name, AUDIT)
    rows = reference_rows(24, 10, 0)
    assert calibration.description.references == rows
    assert len(set(rows)) == 10
    scores = plain_scores(attributor, method.column, method.unit_rows)
    for place, row in enumerate(rows):
        mine = scores[row]
        quarter, half, rest = np.percentile(mine, [25, 50, 75])
        wanted = (mine - half) / ((rest - quarter) / 1.3489795003921634)
        wanted[row] = np.nan
        np.testing.assert_allclose(calibration.null[:, place], wanted, rtol=2e-2, atol=2e-2)
        highest = np.delete(mine, row).max()
        assert calibration.description.nearest[place] == pytest.approx(highest, rel=1e-2)


def test_percentile_counts_lower_scores_of_other_queries(attributor: Attributor) -> None:
    picture = attributor.training_set.picture(3)
    answer = attributor.attribute(picture, label=7, estimator="retrac", top_k=24, audit=AUDIT)
    scores = np.empty(24, np.float32)
    for one in answer.proponents:
        scores[one.row] = one.score
    quarter, half, rest = np.percentile(scores.astype(np.float64), [25, 50, 75])
    null = attributor.calibration("retrac", AUDIT).null
    for one in answer.proponents:
        mine = np.float32((one.score - half) * 1.3489795003921634 / (rest - quarter))
        others = null[one.row][~np.isnan(null[one.row])]
        assert one.null_percentile == pytest.approx(100 * np.mean(others < mine), abs=1e-9)
    assert (answer.calibration.references, answer.calibration.seed) == (10, 0)


def test_sample_that_everything_likes_is_high_among_all_but_ordinary_for_itself() -> None:
    scores = np.array([np.arange(50), np.arange(50) + 100, 3 * np.arange(50)], np.float32)
    scores[:, 0] = [1000, 1200, 3000]
    described = CalibrationDescription("retrac", "", {}, None, 50, 0, (1, 2), (0.0, 0.0))
    calibration = Calibration(described, standardised(scores[1:]).T)
    percentiles = calibration.percentiles(scores[0], np.array([0, 10]))
    assert (scores[0] < scores[0, 0]).mean() == 0.98
    assert percentiles[0] <= 50
    surprising = scores[0].copy()
    surprising[10] = 900
    assert calibration.percentiles(surprising, np.array([10])) == [100.0]


def test_one_scale_forgets_size_and_offset() -> None:
    scores = np.random.default_rng(0).standard_normal((1, 200)).astype(np.float32)
    np.testing.assert_allclose(standardised(7 * scores + 3), standardised(scores), atol=1e-5)
    assert np.isfinite(standardised(np.ones((2, 9)))).all()
    mostly_equal = np.zeros((1, 9))
    mostly_equal[0, 0] = 5
    assert standardised(mostly_equal)[0, 0] > 1


def test_null_is_kept_and_renewed_when_it_does_not_belong(writable_run: Run) -> None:
    file = writable_run.folder / "calibration" / "tracin.npy"

    def calibrated(audit: AuditConfig) -> Calibration:
        return Attributor.open(writable_run.folder).calibration("tracin", audit)

    first = np.array(calibrated(AUDIT).null)
    written = file.stat().st_mtime_ns
    np.testing.assert_array_equal(calibrated(AUDIT).null, first)
    assert file.stat().st_mtime_ns == written
    assert calibrated(AuditConfig(references=4)).null.shape == (24, 4)
    assert file.stat().st_mtime_ns != written
    file.write_bytes(b"damaged")
    np.testing.assert_array_equal(calibrated(AUDIT).null, first)
    said = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps({**said, "store_plan_hash": "another"}))
    np.testing.assert_array_equal(calibrated(AUDIT).null, first)
    assert json.loads(file.with_suffix(".json").read_text()) == said


def test_run_that_cannot_be_written_to_answers_all_the_same(writable_run: Run) -> None:
    folder = writable_run.folder / "calibration"
    if folder.exists():
        folder.rename(folder.with_name("aside"))
    folder.write_text("no folder can be made here")
    attributor = Attributor.open(writable_run.folder)
    answer = attributor.attribute(attributor.training_set.picture(0), label=1, top_k=2, audit=AUDIT)
    assert all(one.null_percentile is not None for one in answer.proponents)
    assert answer.memorisation.near_copy


def test_prepare_computes_ahead(writable_run: Run) -> None:
    Attributor.open(writable_run.folder).prepare(["retrac"], AUDIT)
    made = {path.name for path in (writable_run.folder / "calibration").iterdir()}
    assert {"retrac.npy", "retrac.json", "pixels.npy", "pixels.json", "pixels-coarse.npy", "neighbours.json"} <= made


def test_answer_without_audit_claims_nothing(attributor: Attributor, tmp_path: Path) -> None:
    answer = attributor.attribute(attributor.training_set.picture(0), label=1, audit=None)
    assert (answer.calibration, answer.memorisation, answer.group_statistics) == (None, None, None)
    assert all(one.null_percentile is None for one in answer.proponents)
    with pytest.raises((ConfigError, ValueError)):
        AuditConfig(level=1.0)
