"""Outliers: self-influence from the store, what is planted, and the path from a run to its figures."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from forebear.config import parse
from forebear.data import DataConfig, open_training_set
from forebear.diffusion.building import ModelConfig
from forebear.errors import ConfigError
from forebear.estimators import ESTIMATORS, estimator
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Result
from forebear.evaluation.isolation import isolation, nth_highest, received
from forebear.evaluation.metrics import auc
from forebear.evaluation.outliers import OutliersConfig, outlier_figures, planted_samples, run_outliers
from forebear.evaluation.planting import FOREIGN, MISLABELLED, OWN, PlantingConfig, plant, planted_data, write_pictures
from forebear.images import to_pixels
from forebear.randomness import keyed_permutation
from forebear.run import Run

PLANTING = PlantingConfig(
    foreign=DataConfig("openmoji", limit=40),
    foreign_share=0.1,
    mislabelled_share=0.2,
    training={"epochs": 1, "checkpoint_epochs": [1]},
    embedding={"timesteps": 1, "measurements": ["loss"]},
)


@pytest.fixture(scope="module")
def evaluated(evaluation_run: Run) -> EvaluatedRun:
    return EvaluatedRun.open(evaluation_run)


@pytest.fixture(scope="module")
def found(evaluation_run: Run) -> Result:
    result = run_outliers(evaluation_run, OutliersConfig(planting=PLANTING, estimators=("tracin",)), "outliers-test")
    assert result is not None
    return result


@pytest.mark.parametrize("name", ["tracin", "retrac", "retrac-matched", "trak", "trak-last", "dtrak", "das"])
def test_self_influence_is_the_score_of_a_sample_as_its_own_query(evaluated: EvaluatedRun, name: str) -> None:
    rows = [0, 11, 29]
    queries = evaluated.embed([evaluated.asked(row) for row in rows], [name])
    scores = evaluated.scores(name, queries)[np.arange(3), rows]
    # The store keeps float16.
    np.testing.assert_allclose(received(evaluated, name)[0][rows], scores, rtol=5e-3)


def test_a_cosine_with_itself_tells_nobody_apart(evaluated: EvaluatedRun) -> None:
    for name in ("cosine", "pixel"):
        assert np.ptp(received(evaluated, name)[0]) == 0


def explicit(evaluated: EvaluatedRun, name: str, *, residual: bool) -> np.ndarray:
    """float64[N, N]: in row j and column i the score of sample j for sample i, from whole matrices."""
    method, sides = estimator(name), evaluated.sides
    rows = [np.concatenate([block for _, block in blocks]) for blocks in sides.blocks(method)]
    psi = method.query_rows(rows, sides.weights(method), sides.curvatures(method, build=True))
    found = np.zeros((len(rows[0]), len(rows[0])))
    for place, part in enumerate(rows):
        factor = sides.residuals(method)[place] if method.residual else np.ones(len(part))
        plain = replace(method, residual=False).training_rows(part, None).astype(np.float64)
        found += (factor[:, None] if residual else 1.0) * plain @ psi[place].T
    return found


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "embedding"])
def test_support_and_isolation_are_those_of_the_whole_matrix(evaluated: EvaluatedRun, name: str) -> None:
    scores = explicit(evaluated, name, residual=True)
    count = len(scores)
    others = (scores.sum(0) - np.diag(scores)) / (count - 1)
    size = np.abs(scores).mean()
    np.testing.assert_allclose(received(evaluated, name)[1], others, rtol=1e-4, atol=1e-5 * size)
    kernel = explicit(evaluated, name, residual=False)
    cosines = kernel / np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    np.fill_diagonal(cosines, -np.inf)
    for share, n in ((0.01, 1), (0.1, 3), (0.9999, 29)):
        wanted = 1.0 - np.sort(cosines, axis=0)[::-1][n - 1]
        np.testing.assert_allclose(isolation(evaluated, name, share), wanted, atol=2e-5)


def test_neighbours_are_sought_among_references_chosen_by_key(evaluated: EvaluatedRun, monkeypatch) -> None:
    monkeypatch.setattr("forebear.evaluation.isolation.REFERENCES", 12)
    kernel = explicit(evaluated, "tracin", residual=False)
    cosines = kernel / np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    np.fill_diagonal(cosines, -np.inf)
    by_id = sorted(range(30), key=lambda row: evaluated.store.ids()[row])
    chosen = [by_id[place] for place in keyed_permutation(30, "isolation")[:12]]
    wanted = 1.0 - np.sort(cosines[chosen], axis=0)[::-1][2]
    np.testing.assert_allclose(isolation(evaluated, "tracin", 0.25), wanted, atol=2e-5)


def test_a_cluster_of_strangers_is_far_from_neighbours_beyond_itself() -> None:
    directions = np.full((40, 2), (1.0, 0.0))
    directions[:4] = 0.0, 1.0  # four strangers that are all alike
    rows = np.arange(40)
    alone = 1 - nth_highest(directions @ directions.T, rows, rows, 0.05)  # n = 2
    beyond = 1 - nth_highest(directions @ directions.T, rows, rows, 0.1)  # n = 4
    assert (alone == 0).all()
    np.testing.assert_array_equal(beyond, (rows < 4).astype(float))


def test_planted_pictures_are_written_as_they_are_read(evaluated: EvaluatedRun, tmp_path) -> None:
    own = evaluated.training_set
    foreign = open_training_set(PLANTING.foreign)
    planted = plant(own, foreign, PLANTING, evaluated.model)
    kinds = [one.kind for one in planted]
    assert (kinds.count(OWN), kinds.count(MISLABELLED), kinds.count(FOREIGN)) == (24, 6, 3)
    assert kinds[:30] == [
        one.kind for one in plant(own, foreign, replace(PLANTING, foreign_share=0.0), evaluated.model)
    ]
    for one, sample in zip(planted, own.samples, strict=False):
        assert (one.label == sample.label) == (one.kind == OWN)
        assert one.groups == sample.groups
    write_pictures(tmp_path / "images", planted)
    config = planted_data(tmp_path / "images", own, parse(ModelConfig, evaluated.run.section("model"), "tests"))
    read = open_training_set(config)
    assert [sample.label for sample in read.samples] == [one.label for one in planted]
    assert [sample.caption for sample in read.samples] == [one.caption for one in planted]
    assert [sample.groups["planted"] for sample in read.samples] == kinds
    np.testing.assert_array_equal(read.pixels([0, 30], 8, 1), np.stack([planted[0].pixels, planted[30].pixels]))
    lines = (tmp_path / "images" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[30])["planted"] == FOREIGN
    np.testing.assert_array_equal(to_pixels(Image.open(tmp_path / "images" / "000000.png"), 8, 1), planted[0].pixels)


def test_planted_run_is_trained_embedded_and_judged(found: Result, evaluation_run: Run) -> None:
    assert found.facts["planted"] == {FOREIGN: 3, MISLABELLED: 6}
    assert {one.estimator for one in found.figures} == {"tracin", "pixel", "random", "loss", "gradient norm"}
    table = pq.read_table(evaluation_run.folder / "evaluation" / "outliers-test" / "details.parquet").to_pandas()
    assert len(table) == 33
    kept = table[table.planted != MISLABELLED]
    for score in ("", "support ", "isolation "):
        wanted = auc(kept[f"tracin {score}".strip()].to_numpy(), (kept.planted == FOREIGN).to_numpy())
        figure = found.value("tracin", f"{score}AUC", FOREIGN)
        assert figure.value == pytest.approx(wanted)
        assert figure.low <= figure.value <= figure.high
    assert found.value("pixel", "AUC", FOREIGN).value == 0.5
    assert (evaluation_run.folder / found.facts["subject"] / "store" / "manifest.json").is_file()


def test_planting_again_writes_nothing_anew_and_other_settings_are_refused(found: Result, evaluation_run: Run) -> None:
    folder = evaluation_run.folder / "evaluation" / "outliers-test"

    def written() -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns
            for name in ("images", "run/model")
            for path in (folder / name).rglob("*")
        }

    before = written()
    assert len(before) > 33
    again = run_outliers(evaluation_run, OutliersConfig(planting=PLANTING, estimators=("tracin",)), "outliers-test")
    assert again is not None
    assert again.figures == found.figures
    assert written() == before
    with pytest.raises(ConfigError, match="seed"):
        run_outliers(evaluation_run, OutliersConfig(planting=replace(PLANTING, seed=1)), "outliers-test")


def test_a_group_of_the_run_itself(evaluation_run: Run, evaluated: EvaluatedRun) -> None:
    config = OutliersConfig(planted={"class": ("three", "five", "hundred")}, estimators=("retrac",))
    result = run_outliers(evaluation_run, config, "outliers-classes")
    assert result is not None
    assert set(result.facts["planted"]) == {"three", "five"}
    assert result.facts["subject"] == ""
    with pytest.raises(ConfigError, match="class"):
        planted_samples(evaluated, {"class": ("hundred",)})


def test_perfect_and_useless_scores() -> None:
    planted = np.arange(20) < 4
    perfect = {one.metric: one for one in outlier_figures("x", planted.astype(float), planted, "foreign")}
    assert (perfect["AUC"].value, perfect["precision"].value) == (1.0, 1.0)
    assert perfect["precision"].low < 1.0
    useless = {one.metric: one for one in outlier_figures("x", np.ones(20), planted, "foreign")}
    assert (useless["AUC"].value, useless["precision"].value) == (0.5, 0.2)


def test_nothing_to_plant() -> None:
    with pytest.raises(ConfigError, match="nothing"):
        PlantingConfig(foreign_share=0.0)
