"""Keyed draws are functions of their key alone, distributed as promised, and do not change with versions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forebear.randomness import keyed_integers, keyed_normal, keyed_permutation, keyed_signs, keyed_uniform

KEYS = st.lists(st.tuples(st.integers(-(2**40), 2**40), st.text(max_size=8)), min_size=2, max_size=6, unique=True)


@given(KEYS, st.randoms())
def test_draws_do_not_depend_on_the_order_of_calls(keys: list[tuple[int, str]], order: object) -> None:
    before = {key: keyed_normal((3, 2), "noise", *key) for key in keys}
    order.shuffle(keys)  # type: ignore[attr-defined]
    for key in keys:
        np.testing.assert_array_equal(keyed_normal((3, 2), "noise", *key), before[key])
    assert len({array.tobytes() for array in before.values()}) == len(keys)


def test_numpy_integers_and_strings_are_the_same_keys_as_pythons() -> None:
    plain = keyed_normal((4,), "noise", 3, "shared")
    np.testing.assert_array_equal(keyed_normal((4,), np.str_("noise"), np.int64(3), np.str_("shared")), plain)
    np.testing.assert_array_equal(keyed_normal((4,), "noise", np.int32(3), "shared"), plain)
    with pytest.raises(TypeError):
        keyed_normal((4,), "noise", 3.0, "shared")  # type: ignore[arg-type]


def test_keys_are_not_run_together() -> None:
    draws = [keyed_uniform((4,), *key) for key in (("a", 11), ("a", 1, 1), ("a1", 1), ("a", "11"), ("a,", 11))]
    assert len({draw.tobytes() for draw in draws}) == len(draws)


def test_uniform_numbers_are_uniform_and_inside_the_open_interval() -> None:
    draws = keyed_uniform((200, 100), "uniform")
    assert draws.dtype == np.float64
    assert 0.0 < draws.min() < draws.max() < 1.0
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 1e-3


def test_normal_numbers_are_standard_normal() -> None:
    draws = keyed_normal((100, 101), "normal")
    assert draws.dtype == np.float32
    assert abs(draws.mean()) < 0.03
    assert abs(draws.std() - 1.0) < 0.03
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    # Box-Muller makes pairs: neither half may follow the other, nor their sizes each other.
    first, second = draws.ravel()[:10_100].reshape(2, -1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 0.05


def test_neighbouring_keys_are_independent() -> None:
    draws = np.stack([keyed_normal((500,), "noise", 0, timestep) for timestep in range(40)])
    correlations = np.corrcoef(draws)[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(500)
    assert abs(correlations.mean()) < 5 / np.sqrt(500 * len(correlations))


def test_signs_are_fair_and_independent_by_place() -> None:
    signs = np.stack([keyed_signs(1_000, "sign", row) for row in range(200)])
    assert signs.dtype == np.int8
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean()) < 5 / np.sqrt(signs.size)
    assert np.abs(signs.mean(0)).max() < 5 / np.sqrt(200)  # no place of the 64-bit words leans to a side
    cosines = signs.astype(np.float64) @ signs.T / 1_000
    assert np.abs(cosines - np.eye(200)).max() < 6 / np.sqrt(1_000)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_any_count_can_be_asked_for_and_a_longer_one_begins_the_same(count: int) -> None:
    np.testing.assert_array_equal(keyed_signs(count, "k"), keyed_signs(200, "k")[:count])
    np.testing.assert_array_equal(keyed_uniform((count,), "k"), keyed_uniform((200,), "k")[:count])
    assert keyed_normal((count,), "k").shape == (count,)


def test_integers_are_uniform_below_the_bound() -> None:
    draws = keyed_integers(7, (70_000,), "integers")
    assert draws.dtype == np.int64
    assert stats.chisquare(np.bincount(draws, minlength=7)).pvalue > 1e-3
    assert draws.max() == 6


def test_a_permutation_holds_every_number_once_and_every_order_is_likely() -> None:
    np.testing.assert_array_equal(np.sort(keyed_permutation(1_000, "order", 1)), np.arange(1_000))
    orders = [tuple(keyed_permutation(3, "order", seed).tolist()) for seed in range(3_000)]
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_fixed_values() -> None:
    """Stores and events on disk name their noise by key only: these numbers must never change."""
    assert keyed_signs(12, "s", 0).tolist() == [-1, -1, -1, 1, -1, -1, -1, 1, 1, -1, -1, 1]
    assert keyed_integers(1000, (5,), "t", 0, 1).tolist() == [688, 880, 513, 222, 740]
    assert keyed_permutation(8, "o", 3).tolist() == [5, 6, 3, 4, 2, 0, 7, 1]
    assert keyed_uniform((3,), "a", 1).tolist() == [0.846946622623534, 0.09664793985278347, 0.3163522275016009]
    noise = [2.3270537853240967, -0.5088275074958801, -0.6322084665298462, -1.7518047094345093]
    # The logarithm and the cosine may round differently on another processor.
    np.testing.assert_allclose(keyed_normal((4,), "noise", 0, "shared", 500, 0), noise, rtol=1e-6)
