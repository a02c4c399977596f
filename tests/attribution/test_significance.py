"""Intervals, shuffles and their correction, against plain loops, enumeration and SciPy."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from forebear.attribution.auditing import AuditConfig
from forebear.attribution.groups import GroupColumn
from forebear.attribution.significance import _order, benjamini_hochberg, examined, intervals, shuffled
from forebear.data import Sample
from forebear.randomness import keyed_integers, keyed_normal, keyed_permutation


def column_of(values: str) -> GroupColumn:
    samples = [
        Sample(str(row), "", groups={"artist": value} if value != "-" else {}) for row, value in enumerate(values)
    ]
    return GroupColumn.of(samples, "artist")


LABELS = "aaaabbbccccccc-d"
COLUMN = column_of(LABELS)
SCORES = keyed_normal((16,), "scores")
STEPS = keyed_normal((5, 16), "steps").astype(np.float64)


def test_intervals_equal_plain_loops() -> None:
    audit = AuditConfig(resamples=40, level=0.9, seed=3)
    found = intervals(STEPS, {"artist": COLUMN}, audit)["artist"]
    drawn = keyed_integers(5, (40, 5), "bootstrap", 3)
    for place, value in enumerate(COLUMN.values):
        mine = np.array([label == (value or "-") for label in LABELS])
        totals, shares = [], []
        for steps in drawn:
            scores = np.mean([STEPS[step] for step in steps], axis=0)
            totals.append(scores[mine].sum())
            shares.append(np.maximum(scores[mine], 0).sum() / np.maximum(scores, 0).sum())
        np.testing.assert_allclose(found[0, :, place], np.quantile(totals, [0.05, 0.95]), atol=1e-12)
        np.testing.assert_allclose(found[1, :, place], np.quantile(shares, [0.05, 0.95]), atol=1e-12)


def test_equal_timesteps_leave_no_interval() -> None:
    found = intervals(np.tile(STEPS[:1], (4, 1)), {"artist": COLUMN}, AuditConfig())["artist"]
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-12)


@pytest.mark.parametrize("labels", ["aaabbbbb", "aabbbbbb", "abcccddd"])
def test_p_values_are_those_of_all_groups_of_the_same_size(labels: str) -> None:
    positive = np.maximum(keyed_normal((8,), "positive", 1), 0).astype(np.float64)
    column = column_of(labels)
    found = shuffled(positive, {"artist": column}, 4000, seed=0)["artist"]
    for place, value in enumerate(column.values):
        rows = [row for row, label in enumerate(labels) if label == value]
        sums = np.array([positive[list(chosen)].sum() for chosen in combinations(range(8), len(rows))])
        exact = (sums >= positive[rows].sum() - 1e-12).mean()
        assert found[place] == pytest.approx(exact, abs=0.03)
        # The null's mean is the group's part of the samples, with no sampling error.
        assert sums.mean() / positive.sum() == pytest.approx(len(rows) / 8)


def test_p_value_is_never_zero_and_of_everything_one() -> None:
    scores = np.zeros(200)
    scores[:20] = 1.0
    planted, everything = column_of("a" * 20 + "b" * 180), column_of("a" * 200)
    found = shuffled(scores, {"planted": planted, "everything": everything}, 99, seed=0)
    assert found["planted"].tolist() == [0.01, 1.0]
    assert found["everything"].tolist() == [1.0]


def test_random_groups_are_found_no_more_often_than_said() -> None:
    labels = np.array(list("abcd" * 25))
    p_values = []
    for trial in range(60):
        column = column_of("".join(labels[keyed_permutation(100, "labels", trial)]))
        positive = np.maximum(keyed_normal((100,), "trial", trial), 0).astype(np.float64)
        p_values += shuffled(positive, {"artist": column}, 199, seed=trial)["artist"].tolist()
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_orders_are_permutations_and_every_one_is_as_likely() -> None:
    orders = np.stack([_order(3, 1, number) for number in range(6000)])
    assert (np.sort(orders, axis=1) == [0, 1, 2]).all()
    counts = [int((orders == order).all(axis=1).sum()) for order in permutations(range(3))]
    assert counts == pytest.approx([1000] * 6, abs=120)
    more = [_order(count, 1, 0) for count in (1, 2, 5, 1000)]
    for order in more:
        np.testing.assert_array_equal(np.sort(order), np.arange(len(order)))
    assert (more[3] != _order(1000, 1, 1)).any()
    assert (more[3] != _order(1000, 2, 0)).any()


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30))
def test_correction_equals_scipys(p_values: list[float]) -> None:
    np.testing.assert_allclose(benjamini_hochberg(np.array(p_values)), false_discovery_control(p_values))


def test_examined_totals_say_it_all_and_only_depend_on_the_seed() -> None:
    columns = {"artist": COLUMN}
    totals = {"artist": COLUMN.totals(SCORES)}
    audit = AuditConfig(resamples=50, permutations=99)
    found, made = examined(totals, columns, SCORES, STEPS, audit)
    assert (made.resamples, made.timesteps, made.permutations) == (50, 5, 99)
    assert found == examined(totals, columns, SCORES, STEPS, audit)[0]
    assert found != examined(totals, columns, SCORES, STEPS, AuditConfig(resamples=50, permutations=99, seed=1))[0]
    adjusted = false_discovery_control([one.p_value for one in found["artist"]])
    for rank, (one, before, value) in enumerate(zip(found["artist"], totals["artist"], adjusted, strict=True), start=1):
        assert (one.value, one.total, one.rank) == (before.value, before.total, rank)
        assert one.ratio == pytest.approx(one.positive_share / one.data_share)
        assert one.expected_total == pytest.approx(one.samples * SCORES.mean(dtype=np.float64))
        assert one.adjusted_p_value == pytest.approx(value)
        assert one.total_interval[0] < one.total_interval[1]
        assert 0 <= one.share_interval[0] <= one.share_interval[1] <= 1


def test_without_timesteps_or_positive_scores_nothing_is_claimed() -> None:
    scores = -np.abs(SCORES)
    found, made = examined({"artist": COLUMN.totals(scores)}, {"artist": COLUMN}, scores, None, AuditConfig())
    assert (made.resamples, made.permutations) == (0, 0)
    for one in found["artist"]:
        assert (one.p_value, one.adjusted_p_value, one.share_interval, one.total_interval) == (None,) * 4
        assert one.ratio == 0


def test_blocks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = AuditConfig(resamples=30)
    whole = intervals(STEPS, {"artist": COLUMN}, audit)["artist"]
    monkeypatch.setattr("forebear.attribution.significance.NUMBERS_AT_ONCE", 100)
    np.testing.assert_allclose(intervals(STEPS, {"artist": COLUMN}, audit)["artist"], whole)
