"""Estimators are inner products: one index answers for the weighted sum over checkpoints."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebear.errors import ConfigError
from forebear.estimators import ESTIMATORS, estimator
from forebear.gradients.embedding import Embeddings


def embeddings(generator: np.random.Generator, count: int, dim: int, scale: float = 1.0) -> Embeddings:
    def drawn(*shape: int) -> np.ndarray:
        return (scale * generator.standard_normal(shape)).astype(np.float32)

    return Embeddings(drawn(count, dim), drawn(count, dim), drawn(count, dim), drawn(count, 1), drawn(count, 1))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


EXPECTED = {
    "tracin": lambda one: one.mean,
    "retrac": lambda one: one.unit_mean,
    "cosine": lambda one: unit(one.mean.astype(np.float64)),
    "retrac-matched": lambda one: one.unit_matched,
}


@pytest.mark.parametrize("name", EXPECTED)
@given(seed=st.integers(0, 1000), checkpoints=st.integers(1, 3), cut=st.integers(1, 6))
def test_one_inner_product_is_the_weighted_sum(name: str, seed: int, checkpoints: int, cut: int) -> None:
    generator = np.random.default_rng(seed)
    train_side = [embeddings(generator, 7, 5) for _ in range(checkpoints)]
    query_side = [embeddings(generator, 2, 5) for _ in range(checkpoints)]
    weights = generator.uniform(0.1, 2.0, checkpoints).tolist()
    method = estimator(name)
    blocks = [
        [(first, getattr(one, method.column)[first : first + cut]) for first in range(0, 7, cut)] for one in train_side
    ]
    found = list(method.training_vectors(blocks, weights))
    assert [first for first, _ in found] == list(range(0, 7, cut))
    phi = np.concatenate([rows for _, rows in found])
    psi = method.query_vector(query_side, weights)
    assert phi.dtype == psi.dtype == np.float32
    read = EXPECTED[name]
    expected = sum(
        weight * read(one).astype(np.float64) @ read(other).astype(np.float64).T
        for weight, one, other in zip(weights, train_side, query_side, strict=True)
    )
    np.testing.assert_allclose(phi.astype(np.float64) @ psi.T, expected, rtol=1e-5, atol=1e-5)


def test_registry_holds_what_is_expected() -> None:
    assert set(ESTIMATORS) == set(EXPECTED)
    for name, method in ESTIMATORS.items():
        assert method.name == name
        assert method.description.endswith(".")


def test_cosine_does_not_see_scale_and_keeps_zeros() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    rows[1] = 0
    ((_, plain),) = estimator("cosine").training_vectors([[(0, rows)]], [1.0])
    # 1e-30 squared is below the smallest float32: the norm must not be taken there.
    ((_, tiny),) = estimator("cosine").training_vectors([[(0, rows * np.float32(1e-30))]], [1.0])
    np.testing.assert_allclose(tiny, plain, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), [1, 0, 1], rtol=1e-6)


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(ConfigError, match=r"oracle.*tracin, retrac, cosine, retrac-matched"):
        estimator("oracle")


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_must_fit(weights: list[float]) -> None:
    one = embeddings(np.random.default_rng(0), 1, 3)
    with pytest.raises(ConfigError, match="positive"):
        estimator("tracin").query_vector([one, one], weights)


def test_blocks_must_hold_the_same_rows() -> None:
    rows = np.ones((2, 3), np.float32)
    with pytest.raises(ConfigError, match="different rows"):
        list(estimator("tracin").training_vectors([[(0, rows)], [(2, rows)]], [1.0, 1.0]))
