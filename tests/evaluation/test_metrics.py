"""Metrics against their definitions, written out plainly, and intervals against what they promise."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from forebear.errors import ConfigError
from forebear.evaluation.metrics import (
    auc,
    bootstrap_auc,
    bootstrap_mean,
    bootstrap_median,
    first_ranks,
    generally_influential,
    gini,
    jackknife,
    lorenz,
    occurrences,
    positive_shares,
    precision_at,
    recall_at_k,
    reciprocal_ranks,
    signed_square,
    top_rows,
    unique_ratio,
)

tied_scores = arrays(np.float64, 12, elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
marks = arrays(np.bool_, 12).filter(lambda marked: 0 < marked.sum() < 12)


@given(tied_scores, marks)
def test_auc_counts_pairs_and_ties_half(scores: np.ndarray, marked: np.ndarray) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p, n in product(scores[marked], scores[~marked])]
    assert auc(scores, marked) == pytest.approx(np.mean(pairs))
    assert auc(scores, marked) == pytest.approx(roc_auc_score(marked, scores))


@given(tied_scores, marks, st.integers(1, 12))
def test_precision_is_the_mean_over_orders_of_equal_scores(scores: np.ndarray, marked: np.ndarray, k: int) -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(400):
        shuffled = random.permutation(12)
        order = shuffled[np.argsort(-scores[shuffled], kind="stable")]
        found.append(marked[order[:k]].mean())
    assert precision_at(scores, marked, k) == pytest.approx(np.mean(found), abs=0.12)


def test_precision_of_a_constant_is_the_share_of_positives() -> None:
    marked = np.arange(10) < 3
    assert precision_at(np.ones(10), marked, 4) == pytest.approx(0.3)


@given(tied_scores, marks)
def test_first_rank_is_the_mean_over_orders_of_equal_scores(scores: np.ndarray, marked: np.ndarray) -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(600):
        shuffled = random.permutation(12)
        order = shuffled[np.argsort(-scores[shuffled], kind="stable")]
        found.append(1 + np.flatnonzero(marked[order])[0])
    assert first_ranks(scores[None], marked[None])[0] == pytest.approx(np.mean(found), abs=0.7)


def test_ranks_recall_and_reciprocals() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.0, 5.0, 1.0]])
    relevant = np.array([[True, False, False], [True, True, False], [True, False, False], [False, False, False]])
    ranks = first_ranks(scores, relevant)
    assert ranks.tolist() == [1.0, 2.0, 2.0, np.inf]
    assert recall_at_k(ranks, 1).tolist() == [1, 0, 0, 0]
    assert recall_at_k(ranks, 2).tolist() == [1, 1, 1, 0]
    assert reciprocal_ranks(ranks).tolist() == [1.0, 0.5, 0.5, 0.0]


def test_overlap_of_lists() -> None:
    scores = np.array([[5.0, 4.0, 1.0, 0.0], [5.0, 1.0, 4.0, 0.0], [5.0, 4.0, 0.0, 1.0]])
    top = top_rows(scores, 2)
    assert top.tolist() == [[0, 1], [0, 2], [0, 1]]
    assert unique_ratio(top) == pytest.approx(3 / 6)
    assert occurrences(top, 4).tolist() == [3, 2, 1, 0]
    assert [generally_influential(top, least) for least in (1, 2, 3, 4)] == [3, 2, 1, 0]


def test_unique_ratio_has_its_ends() -> None:
    same = np.tile(np.arange(5.0), (4, 1))
    assert unique_ratio(top_rows(same, 2)) == pytest.approx(1 / 4)
    apart = np.eye(4)
    assert unique_ratio(top_rows(apart, 1)) == 1.0


def test_concentration() -> None:
    assert gini(np.ones(7)) == pytest.approx(0.0)
    one = np.zeros(100)
    one[3] = 2.0
    assert gini(one) == pytest.approx(0.99)
    assert lorenz(np.array([3.0, 1.0])).tolist() == [0.0, 0.25, 1.0]
    values = np.random.default_rng(0).random(40)
    pairwise = np.abs(values[:, None] - values).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(pairwise)


def test_positive_shares_ignore_what_is_negative() -> None:
    shares = positive_shares(np.array([[1.0, 3.0, -5.0], [-1.0, -1.0, 0.0]]))
    assert shares.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]]


def test_signed_square_keeps_the_ranking() -> None:
    scores = np.array([-2.0, -0.5, 0.0, 0.1, 3.0])
    squared = signed_square(scores)
    assert squared.tolist() == pytest.approx([-4.0, -0.25, 0.0, 0.01, 9.0])
    assert (np.diff(squared) > 0).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: auc(np.ones(3), np.zeros(3, np.bool_)), "0 of 3"),
        (lambda: auc(np.ones(3), np.ones(3, np.bool_)), "3 of 3"),
        (lambda: precision_at(np.ones(3), np.ones(3, np.bool_), 4), "precision at 4"),
        (lambda: top_rows(np.ones((2, 3)), 4), "top 4 of 3"),
    ],
)
def test_refusals(make, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    found = bootstrap_mean(values, "test")
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_bootstrap_leaves_out_what_is_not_a_number_and_repeats_itself() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0])
    found = bootstrap_mean(values, "test")
    assert found == bootstrap_mean(np.array([1.0, 3.0, 5.0]), "test")
    assert found.value == 3.0
    assert 1.0 <= found.low < found.high <= 5.0
    assert np.isnan(bootstrap_mean(np.array([np.nan]), "test").value)


def test_bootstrap_median() -> None:
    found = bootstrap_median(np.array([1.0, 2.0, 50.0]), "test")
    assert found.value == 2.0
    assert (found.low, found.high) == (1.0, 50.0)


def test_bootstrap_auc_covers_and_narrows() -> None:
    random = np.random.default_rng(1)
    widths = []
    for count in (60, 600):
        marked = np.arange(count) < count // 5
        scores = random.normal(size=count) + marked
        found = bootstrap_auc(scores, marked, "test", resamples=300)
        assert found.value == auc(scores, marked)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < 0.5 * widths[0]


def test_bootstrap_auc_of_a_constant_is_certain() -> None:
    found = bootstrap_auc(np.ones(20), np.arange(20) < 4, "test", resamples=50)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(20.0, 1.0, 50)
    found = jackknife(lambda kept: float(values[kept].mean()), 50)
    assert found.high - found.value == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(50), rel=1e-3)
    assert found.value - found.low == pytest.approx(found.high - found.value)
    assert np.isnan(jackknife(lambda kept: 1.0, 1).low)
