"""The LDS and its intervals against SciPy and against a world in which losses are sums of scores."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from forebear.attribution import EmbeddedQuery
from forebear.errors import ConfigError
from forebear.evaluation.lds import (
    bootstrap_lds,
    choose_ridge,
    lds,
    mean_lds,
    noise_ceiling,
    predicted_losses,
    spearman_rows,
)
from forebear.randomness import keyed_integers

Floats = NDArray[np.float64]


def world(queries: int = 30, samples: int = 40, subsets: int = 32, noise: float = 0.0) -> tuple[Floats, ...]:
    """Scores [Q, N], subsets [M, N] and losses [M, Q] that fall by the sum of the scores."""
    draw = np.random.default_rng(5)
    scores = draw.normal(size=(queries, samples))
    members = np.argsort(draw.random((subsets, samples)), 1) < samples // 2
    losses = 3.0 - members @ scores.T + noise * draw.normal(size=(subsets, queries))
    return scores, members, losses


def of_scipy(one: Floats, other: Floats) -> Floats:
    return np.array([spearmanr(x, y).statistic for x, y in zip(one, other, strict=True)])


@given(st.integers(0, 1000), st.sampled_from([0.1, 1.0, 100.0]))
def test_spearman_is_that_of_scipy_with_ties(seed: int, coarseness: float) -> None:
    draw = np.random.default_rng(seed)
    one, other = (np.round(draw.normal(size=(5, 12)) * coarseness) for _ in range(2))
    expected = np.nan_to_num(of_scipy(one, other)) if coarseness > 0.1 else None
    found = spearman_rows(one, other)
    if expected is None:  # nearly all values are 0: rows that are constant get 0
        constant = (np.ptp(one, 1) == 0) | (np.ptp(other, 1) == 0)
        assert (found[constant] == 0).all()
        expected = found.copy()
        expected[~constant] = of_scipy(one[~constant], other[~constant])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_scores_that_lower_the_loss_have_lds_1_and_their_negative_minus_1() -> None:
    scores, members, losses = world()
    np.testing.assert_allclose(lds(scores, members, losses), 1.0)
    np.testing.assert_allclose(lds(-scores, members, losses), -1.0)
    assert np.abs(lds(np.random.default_rng(1).normal(size=scores.shape), members, losses).mean()) < 0.15


def test_a_query_without_scores_counts_0() -> None:
    scores, members, losses = world()
    scores[3] = 0.0
    assert lds(scores, members, losses)[3] == 0.0


def test_the_order_of_samples_and_of_subsets_changes_nothing() -> None:
    scores, members, losses = world(noise=2.0)
    expected = lds(scores, members, losses)
    samples, subsets = (np.random.default_rng(2).permutation(size) for size in members.shape[::-1])
    np.testing.assert_allclose(lds(scores[:, samples], members[:, samples], losses), expected)
    np.testing.assert_allclose(lds(scores, members[subsets], losses[subsets]), expected)


def test_the_bootstrap_resamples_subsets_and_queries() -> None:
    scores, members, losses = world(queries=6, subsets=10, noise=3.0)
    predicted = predicted_losses(scores, members)
    found = bootstrap_lds(predicted, losses.T, replicates=4, seed=9)
    subsets = keyed_integers(10, (4, 10), "bootstrap-subsets", 9)
    queries = keyed_integers(6, (4, 6), "bootstrap-queries", 9)
    for replicate in range(4):
        one, other = (rows[:, subsets[replicate]][queries[replicate]] for rows in (predicted, losses.T))
        assert found[replicate] == pytest.approx(of_scipy(one, other).mean(), abs=1e-12)


def test_the_interval_narrows_with_subsets_and_queries() -> None:
    widths = []
    for queries, subsets in ((10, 12), (80, 12), (80, 96)):
        scores, members, losses = world(queries=queries, subsets=subsets, noise=6.0)
        value, low, high = vars(mean_lds(predicted_losses(scores, members), losses.T, replicates=200)).values()
        assert low < value < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_two_estimators_are_resampled_alike() -> None:
    scores, members, losses = world(noise=6.0)
    rough = scores + 0.2 * np.random.default_rng(3).normal(size=scores.shape)
    best, worse = (bootstrap_lds(predicted_losses(s, members), losses.T, replicates=100) for s in (scores, rough))
    assert np.corrcoef(best, worse)[0, 1] > 0.8
    assert (best - worse).std() < 0.6 * best.std()


def test_the_ceiling_is_below_what_the_true_scores_reach() -> None:
    scores, members, losses = world(queries=100, subsets=64, noise=4.0)
    again = 3.0 - members @ scores.T + 4.0 * np.random.default_rng(8).normal(size=losses.shape)
    ceiling = noise_ceiling(losses, again, replicates=50).value
    truth = lds(scores, members, losses).mean()
    assert 0.2 < ceiling < truth
    assert truth == pytest.approx(np.sqrt(ceiling), abs=0.06)


class Ridged:
    """True scores at lambda 0.1, blurred the more the further lambda is from it; counts what it was asked for."""

    def __init__(self, scores: Floats) -> None:
        self.true, self.asked = scores, list[tuple[int, float]]()

    def scores(self, estimator: str, queries: Sequence[EmbeddedQuery], /, ridge: float | None = None) -> Floats:
        assert ridge is not None
        self.asked.append((len(queries), ridge))
        blur = abs(np.log10(ridge / 0.1))
        return self.true + blur * np.random.default_rng(4).normal(size=self.true.shape)


def test_the_ridge_is_the_best_on_the_queries_it_is_given() -> None:
    scores, members, losses = world(noise=1.0)
    scorer = Ridged(scores)
    queries: list[EmbeddedQuery] = [None] * len(scores)  # type: ignore[list-item]
    choice = choose_ridge(scorer, "trak", queries, members, losses, (1e-3, 1e-1, 1e1))
    assert choice.ridge == 1e-1
    assert choice.trials[1e-1] == max(choice.trials.values()) > 0.9
    assert scorer.asked == [(len(scores), 1e-3), (len(scores), 1e-1), (len(scores), 1e1)]
    with pytest.raises(ConfigError, match="validation queries for tuning"):
        choose_ridge(scorer, "trak", [], members, losses)
