"""Ridge curvature against a direct NumPy solve."""

from collections.abc import Callable

import numpy as np
import pytest

from forebear.errors import ConfigError
from forebear.estimators import Curvature, GramCurvature, MomentCurvature, gram, second_moment


@pytest.fixture
def rows() -> np.ndarray:
    scales = np.geomspace(1e-3, 10, 8)
    return (np.random.default_rng(3).standard_normal((30, 8)) * scales).astype(np.float32)


def test_moment_does_not_depend_on_blocks(rows: np.ndarray) -> None:
    exact = rows.astype(np.float64)
    blocks = [(0, rows[:7]), (7, rows[7:9]), (9, rows[9:])]
    np.testing.assert_allclose(second_moment(blocks, 8), exact.T @ exact / 30, rtol=1e-12)


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0, 1e6])
def test_solution_is_numpys(rows: np.ndarray, ridge: float) -> None:
    moment = second_moment([(0, rows)], 8)
    psi = np.random.default_rng(4).standard_normal((3, 8))
    found = MomentCurvature(moment).solve(psi, ridge)
    regular = moment + ridge * np.trace(moment) / 8 * np.eye(8)
    np.testing.assert_allclose(found, np.linalg.solve(regular, psi.T).T, rtol=1e-9)


def by_gram(rows: np.ndarray) -> Curvature:
    """In blocks of two rows."""
    blocks = lambda: [(first, rows[first : first + 2]) for first in range(0, len(rows), 2)]  # noqa: E731
    return GramCurvature(gram(blocks, len(rows)), rows.shape[1], blocks)


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0, 1e6])
@pytest.mark.parametrize("in_span", [False, True])
def test_gram_and_moment_say_the_same(rows: np.ndarray, ridge: float, in_span: bool) -> None:
    few, psi = rows[:5], np.random.default_rng(6).standard_normal((3, 8))
    expected = MomentCurvature(second_moment([(0, few)], 8)).solve(psi, ridge, in_span=in_span)
    found = by_gram(few).solve(psi, ridge, in_span=in_span)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("make", [by_gram, lambda rows: MomentCurvature(second_moment([(0, rows)], 8))])
def test_in_the_span_scores_are_the_same_and_vectors_short(
    rows: np.ndarray, make: Callable[[np.ndarray], Curvature]
) -> None:
    few = rows[:3]
    curvature, psi = make(few), np.random.default_rng(5).standard_normal((2, 8))
    whole, inside = (curvature.solve(psi, 1e-3, in_span=within) for within in (False, True))
    np.testing.assert_allclose(inside @ few.T, whole @ few.T, rtol=1e-4, atol=1e-4 * np.abs(whole @ few.T).max())
    basis = np.linalg.qr(few.T.astype(np.float64))[0]  # [8, 3]
    outside = inside - inside @ basis @ basis.T
    assert np.linalg.norm(outside) < 1e-4 * np.linalg.norm(inside) < 0.5 * np.linalg.norm(whole)


def test_scale_of_the_gradients_does_not_matter(rows: np.ndarray) -> None:
    """lambda is relative, so a unit of measurement cancels."""
    psi = np.ones((1, 8))
    small, large = (
        MomentCurvature(second_moment([(0, rows * np.float32(s))], 8)).solve(psi * s, 0.1) for s in (2**-20, 2**10)
    )
    np.testing.assert_allclose(small * 2**-20, large * 2**10, rtol=1e-9)


def test_another_ridge_is_another_solution(rows: np.ndarray) -> None:
    curvature, psi = MomentCurvature(second_moment([(0, rows)], 8)), np.ones((1, 8))
    first = curvature.solve(psi, 0.1)
    assert np.abs(curvature.solve(psi, 1.0)).max() < np.abs(first).max()
    np.testing.assert_array_equal(curvature.solve(psi, 0.1), first)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_ridge_must_be_positive(ridge: float) -> None:
    with pytest.raises(ConfigError, match="positive number"):
        MomentCurvature(np.eye(3)).solve(np.ones((1, 3)), ridge)


def test_nothing_to_invert() -> None:
    with pytest.raises(ConfigError, match="all zero"):
        MomentCurvature(np.zeros((3, 3))).solve(np.ones((1, 3)), 0.1)
    with pytest.raises(ConfigError, match="at least one"):
        second_moment([], 3)
