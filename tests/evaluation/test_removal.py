"""Removal: what is left out, that nothing removed moves nothing, and going on after an interruption."""

import numpy as np
import pytest

from forebear.diffusion import training
from forebear.errors import ConfigError
from forebear.evaluation import removal
from forebear.evaluation.asking import generated_queries, training_rows
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Result
from forebear.evaluation.removal import (
    RemovalConfig,
    Retrainer,
    distances,
    removal_figures,
    removed_samples,
    run_removal,
)
from forebear.files import read_json, write_json
from forebear.run import Run

CONFIG = RemovalConfig(queries=2, estimators=("tracin",), remove=0.2, steps=2)
NAME = "removal-test"


@pytest.fixture(scope="module")
def found(evaluation_run: Run) -> Result:
    result = run_removal(evaluation_run, CONFIG, NAME)
    assert result is not None
    return result


def test_figures_of_every_estimator(found: Result) -> None:
    assert {one.estimator for one in found.figures} == {"tracin", "pixel", "random"}
    assert found.facts["removed"] == 6
    assert found.value("tracin", "L2, mean").value > 0
    beyond = found.value("tracin", "L2, mean").value - found.value("random", "L2, mean").value
    assert found.value("tracin", "L2 beyond random").value == pytest.approx(beyond)


def test_top_samples_are_left_out(found: Result, evaluation_run: Run) -> None:
    evaluated = EvaluatedRun.open(evaluation_run)
    rows = training_rows(evaluated, 2, "removal prompts", 0)
    asked = generated_queries(evaluated, rows, seed=0, steps=2, guidance=1.0)
    removed = removed_samples(evaluated, asked, ["tracin"], CONFIG)["tracin"]
    scores = evaluated.scores("tracin", evaluated.embed(asked, ["tracin"]))
    for line, gone in zip(scores, removed, strict=True):
        rows_gone = [evaluated.training_set.row(name) for name in gone]
        assert min(line[rows_gone]) >= np.sort(line)[-6]
    kept = read_json(evaluation_run.folder / "evaluation" / NAME / removal.TASKS, ConfigError, "")
    assert kept["removed"]["tracin"] == removed


def test_going_on_trains_only_what_is_missing(
    found: Result, evaluation_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrainer = Retrainer(evaluation_run, CONFIG, NAME)
    gone = retrainer.picture_file((1, "pixel"))
    before = gone.read_bytes()
    gone.unlink()
    trained = []
    train = training.train
    monkeypatch.setattr(removal, "train", lambda run, *rest, **named: trained.append(run) or train(run, *rest, **named))
    again = run_removal(evaluation_run, CONFIG, NAME)
    assert again is not None
    assert again.figures == found.figures
    assert len(trained) == 1
    assert gone.read_bytes() == before
    assert not list((evaluation_run.folder / "evaluation" / NAME / "models").iterdir())


def test_a_model_that_misses_nothing_makes_the_same_picture(found: Result, evaluation_run: Run) -> None:
    tasks = evaluation_run.folder / "evaluation" / NAME / removal.TASKS
    kept = read_json(tasks, ConfigError, "")
    write_json(tasks, {**kept, "removed": {**kept["removed"], "nothing": [[], []]}})
    retrainer = Retrainer(evaluation_run, CONFIG, NAME)
    try:
        assert retrainer.work((0, "nothing"))
        evaluated = EvaluatedRun.open(evaluation_run)
        rows = training_rows(evaluated, 2, "removal prompts", 0)
        asked = generated_queries(evaluated, rows, seed=0, steps=2, guidance=1.0)
        picture = retrainer.picture((0, "nothing"))
        assert distances(picture[None], asked[0].pixels[None])[0] < 1e-4
    finally:
        write_json(tasks, kept)
        retrainer.picture_file((0, "nothing")).unlink()


def test_other_settings_are_refused(found: Result, evaluation_run: Run) -> None:
    with pytest.raises(ConfigError, match="remove"):
        run_removal(evaluation_run, RemovalConfig(queries=2, estimators=("tracin",), remove=0.4, steps=2), NAME)


def test_too_small_a_share(evaluation_run: Run) -> None:
    with pytest.raises(ConfigError, match="another share"):
        run_removal(evaluation_run, RemovalConfig(queries=2, remove=0.001, steps=2), "removal-small")


def test_distances_and_medians() -> None:
    one, other = np.zeros((2, 1, 2, 2)), np.zeros((2, 1, 2, 2))
    other[0] += 0.5
    assert distances(one, other).tolist() == [1.0, 0.0]
    figures = removal_figures({"tracin": np.array([1.0, 2.0, 6.0]), "random": np.array([1.0, 1.0, 1.0])})
    values = {(figure.estimator, figure.metric): figure.value for figure in figures}
    assert values["tracin", "L2, median"] == 2.0
    assert values["tracin", "L2, mean"] == 3.0
    assert values["tracin", "L2 beyond random"] == 2.0
    assert ("random", "L2 beyond random") not in values
