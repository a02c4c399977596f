"""A run opened for evaluation: which estimators it serves, and what is kept of embedded queries."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from forebear.errors import ConfigError
from forebear.evaluation.evaluated_run import Asked, EvaluatedRun
from forebear.gradients import embedding
from forebear.run import Run

TWO = ("tracin", "dtrak")


@pytest.fixture(scope="module")
def evaluated(evaluation_run: Run) -> EvaluatedRun:
    return EvaluatedRun.open(evaluation_run)


def test_baselines_are_always_in(evaluated: EvaluatedRun, recorded_evaluation_run: Run) -> None:
    assert evaluated.estimators(["retrac"]) == ("retrac", "pixel", "random")
    assert {"tracin", "das", "trak-last", "pixel", "random"} <= set(evaluated.estimators([]))
    served = EvaluatedRun.open(recorded_evaluation_run).estimators([])
    assert "trak" in served
    assert not {"dtrak", "das", "embedding"} & set(served)


@pytest.mark.parametrize(("name", "words"), [("oracle", "no estimator"), ("embedding", "features")])
def test_estimators_that_cannot_be_evaluated(evaluated: EvaluatedRun, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        evaluated.estimators([name])


def test_estimator_without_its_measurement(recorded_evaluation_run: Run) -> None:
    with pytest.raises(ConfigError, match="square"):
        EvaluatedRun.open(recorded_evaluation_run).estimators(["dtrak"])


def test_embedded_queries_are_read_back_whole(
    evaluated: EvaluatedRun, evaluation_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [evaluated.asked(3), evaluated.asked(7)]
    first = evaluated.embed(asked, TWO)
    again = EvaluatedRun.open(evaluation_run)
    monkeypatch.setattr(embedding.Embedder, "embed", None)  # nothing may be embedded a second time
    for made, kept in zip(first, again.embed(asked, TWO), strict=True):
        assert kept.record == made.record
        assert kept.seconds == made.seconds
        np.testing.assert_array_equal(kept.pixels, made.pixels)
        for one, other in zip(made.embeddings, kept.embeddings, strict=True):
            assert one.vectors.keys() == other.vectors.keys()
            for column, rows in one.vectors.items():
                np.testing.assert_array_equal(rows, other.vectors[column])
            np.testing.assert_array_equal(one.norms, other.norms)
            np.testing.assert_array_equal(one.losses, other.losses)


def test_other_captions_labels_pictures_and_measurements_are_other_queries(evaluated: EvaluatedRun) -> None:
    asked = evaluated.asked(3)
    files = evaluated.run.folder / "evaluation" / "queries"
    evaluated.embed([asked], ["tracin"])
    before = len(list(files.iterdir()))
    others = [
        dataclasses.replace(asked, label=(asked.label or 0) + 1),
        dataclasses.replace(asked, caption="something else"),
        Asked("other", np.flip(asked.pixels, 2).copy(), asked.caption, asked.label),
    ]
    evaluated.embed(others, ["tracin"])
    assert len(list(files.iterdir())) == before + 3
    evaluated.embed([asked], ["das"])
    assert len(list(files.iterdir())) == before + 4
    evaluated.embed([asked], ["retrac"])  # another reduction of what is measured already
    assert len(list(files.iterdir())) == before + 4


def test_damaged_query_is_made_again(writable_evaluation_run: Run) -> None:
    evaluated = EvaluatedRun.open(writable_evaluation_run)
    asked = [evaluated.asked(0)]
    (whole,) = evaluated.embed(asked, ["tracin"])
    (path,) = (writable_evaluation_run.folder / "evaluation" / "queries").iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (again,) = evaluated.embed(asked, ["tracin"])
    np.testing.assert_array_equal(again.embeddings[0].mean, whole.embeddings[0].mean)


def test_facts_name_every_cost(evaluated: EvaluatedRun) -> None:
    queries = evaluated.embed([evaluated.asked(1)], ["tracin", "trak"])
    for name in ("tracin", "trak", "pixel"):
        evaluated.scores(name, queries)
    facts = evaluated.facts(queries, ("tracin", "trak", "pixel"))
    costs = facts["costs"]
    assert costs["tracin"]["bytes_per_sample"] == 2 * (512 * 2 + 4)
    files = (evaluated.run.folder / "curvature" / "mean").glob("*.npy")
    assert costs["trak"]["curvature_bytes"] == sum(np.load(file).nbytes for file in files) > 0
    assert costs["tracin"]["embedding_seconds"] > 0
    assert costs["pixel"]["embedding_seconds"] == 0
    assert all(cost["scoring_seconds"] > 0 for cost in costs.values())


def test_nothing_is_left_half_written(evaluated: EvaluatedRun) -> None:
    evaluated.embed([evaluated.asked(2)], ["tracin"])
    assert not list(Path(evaluated.run.folder).rglob("*.part"))
