"""Estimators are inner products: one index answers for the weighted sum over checkpoints."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebear.errors import ConfigError
from forebear.estimators import ESTIMATORS, Estimator, MomentCurvature, estimator, index_name, residuals

RIDGE = 0.3


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def inverse(rows: np.ndarray, ridge: float) -> np.ndarray:
    moment = rows.T @ rows / len(rows)
    return np.linalg.inv(moment + ridge * np.trace(moment) / len(moment) * np.eye(len(moment)))


def expected(
    name: str, train: list[np.ndarray], query: list[np.ndarray], weights: list[float], losses: list
) -> np.ndarray:
    """float64[N, Q] by the formulas of docs/estimators.md, one checkpoint at a time."""
    total = np.zeros((len(train[0]), len(query[0])))
    for place, (phi, psi, weight, lost) in enumerate(zip(train, query, weights, losses, strict=True)):
        if name in {"tracin", "retrac", "retrac-matched", "random"}:
            total += weight * phi @ psi.T
        elif name in {"cosine", "pixel", "embedding"}:
            total += weight * unit(phi) @ unit(psi).T
        elif name in {"trak", "dtrak", "retrac-ridge"}:
            total += phi @ inverse(phi, RIDGE) @ psi.T
        elif name == "trak-last":
            total = phi @ inverse(phi, RIDGE) @ psi.T
        elif name == "das":
            residual = np.sqrt(lost.mean(1))
            total += (residual / residual.mean())[:, None] * (phi @ inverse(phi, RIDGE) @ psi.T)
        else:
            raise AssertionError(f"no oracle for {name}, checkpoint {place}")
    return total


@pytest.mark.parametrize("name", ESTIMATORS)
@given(seed=st.integers(0, 1000), checkpoints=st.integers(1, 3), cut=st.integers(1, 6))
def test_one_inner_product_is_the_sum_over_checkpoints(name: str, seed: int, checkpoints: int, cut: int) -> None:
    generator = np.random.default_rng(seed)
    train = [generator.standard_normal((7, 5)).astype(np.float32) for _ in range(checkpoints)]
    query = [generator.standard_normal((2, 5)).astype(np.float32) for _ in range(checkpoints)]
    losses = [generator.uniform(0.1, 1, (7, 3)).astype(np.float32) for _ in range(checkpoints)]
    weights = generator.uniform(0.1, 2.0, checkpoints).tolist()
    method = estimator(name)
    blocks = [[(first, one[first : first + cut]) for first in range(0, 7, cut)] for one in train]
    found = list(method.training_vectors(blocks, weights, [residuals(lost) for lost in losses]))
    assert [first for first, _ in found] == list(range(0, 7, cut))
    phi = np.concatenate([rows for _, rows in found])
    curvatures = [MomentCurvature(one.T.astype(np.float64) @ one.astype(np.float64) / 7) for one in train]
    psi = method.query_vector(query, weights, curvatures, RIDGE)
    assert phi.dtype == psi.dtype == np.float32
    exact = [[one.astype(np.float64) for one in side] for side in (train, query)]
    wanted = expected(name, *exact, weights, losses)
    np.testing.assert_allclose(phi.astype(np.float64) @ psi.T, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_registry_is_sound() -> None:
    for name, method in ESTIMATORS.items():
        assert method.name == name
        assert method.description.endswith(".")
        assert (method.measurement is None) == method.baseline
        assert not (method.baseline and method.ridge)


def test_estimators_with_one_training_side_share_an_index() -> None:
    shared = {name: index_name(name) for name in ESTIMATORS if index_name(name) != name}
    assert shared == {"trak": "tracin", "trak-last": "tracin", "retrac-ridge": "retrac"}


def test_cosine_does_not_see_scale_and_keeps_zeros() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    rows[1] = 0
    ((_, plain),) = estimator("cosine").training_vectors([[(0, rows)]], [1.0])
    # 1e-30 squared is below the smallest float32: the norm must not be taken there.
    ((_, tiny),) = estimator("cosine").training_vectors([[(0, rows * np.float32(1e-30))]], [1.0])
    np.testing.assert_allclose(tiny, plain, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), [1, 0, 1], rtol=1e-6)


def test_residuals_are_roots_of_mean_losses_with_mean_1() -> None:
    found = residuals(np.array([[1.0, 7.0], [0.5, 1.5], [8.0, 10.0]], np.float32))
    np.testing.assert_allclose(found, np.array([2.0, 1.0, 3.0]) / 2, rtol=1e-6)
    assert residuals(np.zeros((2, 3), np.float32)).tolist() == [0, 0]


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(ConfigError, match=r"oracle.*tracin, retrac, cosine, retrac-matched"):
        estimator("oracle")


@pytest.mark.parametrize("name", ["tracin", "trak"])
@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_must_fit(name: str, weights: list[float]) -> None:
    part = np.ones((1, 3), np.float32)
    with pytest.raises(ConfigError, match="positive"):
        estimator(name).query_vector([part, part], weights, [MomentCurvature(np.eye(3))] * 2)


def test_what_an_estimator_needs_is_asked_for() -> None:
    part = np.ones((1, 3), np.float32)
    with pytest.raises(ConfigError, match="trak needs the curvature"):
        estimator("trak").query_vector([part], [1.0])
    with pytest.raises(ConfigError, match="das needs the residuals"):
        list(estimator("das").training_vectors([[(0, part)]], [1.0]))


def test_blocks_must_hold_the_same_rows() -> None:
    rows = np.ones((2, 3), np.float32)
    with pytest.raises(ConfigError, match="different rows"):
        list(estimator("tracin").training_vectors([[(0, rows)], [(2, rows)]], [1.0, 1.0]))


def test_a_new_one_is_an_entry() -> None:
    """What docs/how-to/estimator.md tells to write."""
    method = Estimator("dtrak-cosine", "Cosine of D-TRAK's gradients.", "square_mean", unit_rows=True)
    assert (method.measurement, method.ridge, method.baseline) == ("square", None, False)
