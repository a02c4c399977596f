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
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Result
from forebear.evaluation.metrics import auc
from forebear.evaluation.outliers import OutliersConfig, outlier_figures, planted_samples, run_outliers, self_influence
from forebear.evaluation.planting import FOREIGN, MISLABELLED, OWN, PlantingConfig, plant, planted_data, write_pictures
from forebear.images import to_pixels
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
    np.testing.assert_allclose(self_influence(evaluated, name)[rows], scores, rtol=5e-3)


def test_a_cosine_with_itself_tells_nobody_apart(evaluated: EvaluatedRun) -> None:
    for name in ("cosine", "pixel"):
        assert np.ptp(self_influence(evaluated, name)) == 0


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
    wanted = auc(kept["tracin"].to_numpy(), (kept.planted == FOREIGN).to_numpy())
    assert found.value("tracin", "AUC", FOREIGN).value == pytest.approx(wanted)
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
