"""Specificity on a tiny run: figures that follow from the scores, curves that follow from the store."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from forebear.errors import ConfigError
from forebear.evaluation.asking import training_queries, training_rows
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Result, read_result
from forebear.evaluation.specificity import (
    SpecificityConfig,
    comparison_figures,
    mean_norms,
    overlap_figures,
    recorded_timesteps,
    run_specificity,
)
from forebear.run import Run

CONFIG = SpecificityConfig(
    queries=6, top=4, norm_samples=2, norm_timesteps=3, estimators=("tracin", "retrac"), at_least=0.3
)


@pytest.fixture(scope="module")
def result(evaluation_run: Run) -> Result:
    return run_specificity(evaluation_run, CONFIG, "specificity-test")


@pytest.fixture(scope="module")
def evaluated(evaluation_run: Run) -> EvaluatedRun:
    return EvaluatedRun.open(evaluation_run)


def test_every_estimator_and_baseline_has_every_figure(result: Result) -> None:
    metrics = {"unique ratio", "generally influential", "gini", "influence ~ norm", "|influence| ~ norm"}
    for name in ("tracin", "retrac", "pixel", "random"):
        assert metrics <= {one.metric for one in result.figures if one.estimator == name}
    assert result.value("retrac", "unique ratio / tracin").value == pytest.approx(
        result.value("retrac", "unique ratio").value / result.value("tracin", "unique ratio").value
    )


def test_figures_follow_from_the_scores(result: Result, evaluated: EvaluatedRun) -> None:
    queries = evaluated.embed(training_queries(evaluated, training_rows(evaluated, 6, "specificity", 0)), ["tracin"])
    scores = evaluated.scores("tracin", queries)
    lists = [set(np.argsort(-line, kind="stable")[:4].tolist()) for line in scores]
    counts = np.array([sum(row in chosen for chosen in lists) for row in range(scores.shape[1])])
    assert result.value("tracin", "unique ratio").value == pytest.approx((counts > 0).sum() / 24)
    assert result.value("tracin", "generally influential").value == (counts >= 2).sum()
    assert CONFIG.least_lists == result.facts["at_least"] == 2
    correlations = [spearmanr(line, mean_norms(evaluated)).statistic for line in scores]
    assert result.value("tracin", "influence ~ norm").value == pytest.approx(np.mean(correlations))
    drawn = result.facts["drawn"]["tracin"]
    assert drawn["in_at_least"] == [int((counts >= m).sum()) for m in range(1, 7)]
    assert all(counts[row] == lists for row, lists in drawn["common"])


def test_details_count_lists(result: Result, evaluation_run: Run) -> None:
    table = pq.read_table(evaluation_run.folder / "evaluation" / result.name / "details.parquet").to_pandas()
    assert (table.groupby("estimator")["lists"].sum() == 6 * 4).all()


def test_norm_curves_are_measured_and_stored_ones_read(result: Result, evaluated: EvaluatedRun) -> None:
    for name in evaluated.store.plan.checkpoint_names:
        assert len(result.facts["norm_curves"][name]) == 3
        norms = evaluated.store.norms(name)
        medians = [point["median"] for point in result.facts["store_norms"][name]]
        assert medians == pytest.approx(np.median(norms, 0).tolist())


def test_recorded_timesteps_are_correlated_where_there_are_any(
    evaluated: EvaluatedRun, recorded_evaluation_run: Run
) -> None:
    assert recorded_timesteps(evaluated) is None
    found = run_specificity(
        recorded_evaluation_run, SpecificityConfig(queries=3, top=3, norm_samples=0, estimators=("retrac",))
    )
    recorded = EvaluatedRun.open(recorded_evaluation_run)
    timesteps = recorded_timesteps(recorded)
    assert timesteps is not None
    first, second = (recorded.store.timesteps(name)[:, 0] for name in recorded.store.plan.checkpoint_names)
    assert (np.minimum(first, second) <= timesteps).all()
    assert (timesteps <= np.maximum(first, second)).all()
    assert -1 <= found.value("retrac", "|influence| ~ timestep").value <= 1
    assert found.facts["norm_curves"] == {}
    assert found.facts["store_norms"]


def test_result_is_read_back(result: Result, evaluation_run: Run) -> None:
    kept = read_result(evaluation_run.folder / "evaluation" / result.name)
    assert kept.settings == result.settings
    assert [(one.metric, one.value) for one in kept.figures] == [(one.metric, one.value) for one in result.figures]


def test_generated_queries(evaluation_run: Run) -> None:
    config = SpecificityConfig(queries=2, top=2, source="generated", steps=2, norm_samples=0, estimators=("tracin",))
    found = run_specificity(evaluation_run, config, "specificity-generated")
    assert found.facts["queries"] == 2


def test_same_list_for_all_is_seen() -> None:
    same, apart = np.tile(np.arange(4), (5, 1)), np.arange(20).reshape(5, 4)
    by_metric = {one.metric: one for one in overlap_figures("tracin", same, 3)}
    assert by_metric["unique ratio"].value == pytest.approx(1 / 5)
    assert by_metric["generally influential"].value == 4
    compared = {one.metric: one.value for one in comparison_figures({"tracin": same, "retrac": apart}, 3)}
    assert compared == {"unique ratio / tracin": pytest.approx(5.0), "influential / tracin": 0.0}


def test_too_many_queries(evaluation_run: Run) -> None:
    with pytest.raises(ConfigError, match="ask for fewer"):
        run_specificity(evaluation_run, SpecificityConfig(queries=1000))
