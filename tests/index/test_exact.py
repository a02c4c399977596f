"""Exact search equals brute force in NumPy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebear.errors import SearchIndexError
from forebear.index import VectorIndex, matrix, ranking
from forebear.randomness import keyed_normal, keyed_uniform
from forebear.store import from_half, to_half


def brute_force(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """float64[Q, N] scores of the vectors as they are stored."""
    return queries.astype(np.float64) @ from_half(*to_half(vectors)).astype(np.float64).T


@pytest.mark.parametrize("opponents", [False, True])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_search_equals_brute_force(folder: Path, build, vectors, queries, *, opponents: bool, k: int) -> None:
    index = build(folder, vectors)
    assert index.description.kind == "exact"
    found = index.search(queries, k, opponents=opponents)
    truth = brute_force(vectors, queries)
    expected = np.argsort(truth if opponents else -truth, axis=1, kind="stable")[:, :k]
    assert found.rows.dtype == np.int64
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, expected, axis=1), rtol=1e-5, atol=1e-5)


def test_scores_are_those_of_brute_force_and_of_search(folder: Path, build, vectors, queries) -> None:
    index = build(folder, vectors)
    scores = index.scores(queries)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, brute_force(vectors, queries), rtol=1e-5, atol=1e-5)
    found = index.search(queries, 9)
    np.testing.assert_array_equal(np.take_along_axis(scores, found.rows, axis=1), found.scores)
    worst = index.search(queries, 9, opponents=True)
    np.testing.assert_array_equal(np.take_along_axis(scores, worst.rows, axis=1), worst.scores)


def test_blocks_and_query_batches_change_nothing(folder: Path, build, vectors, queries, monkeypatch) -> None:
    index = build(folder, vectors)
    whole = index.search(queries, 8)
    monkeypatch.setattr(matrix, "BLOCK_NUMBERS", 12 * 16)  # 16 rows at a time
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", 1)  # one tile of queries at a time
    blocked = VectorIndex.open(folder)
    np.testing.assert_array_equal(blocked.search(queries, 8).rows, whole.rows)
    np.testing.assert_allclose(blocked.search(queries, 8).scores, whole.scores, rtol=1e-6)
    for number, query in enumerate(queries):
        np.testing.assert_array_equal(index.search(query[None], 8).scores[0], whole.scores[number])


@pytest.mark.parametrize("dim", [1, 5, 33, 300])
def test_equal_rows_get_equal_scores_and_go_by_row(folder: Path, build, dim: int) -> None:
    vectors = np.repeat(keyed_normal((3, dim), "ties"), 41, axis=0)[
        np.argsort(np.tile(np.arange(41), 3), kind="stable")
    ]
    index = build(folder, vectors)
    queries = keyed_normal((4, dim), "tied queries")
    for opponents in (False, True):
        found = index.search(queries, 123, opponents=opponents)
        for rows, scores in zip(found.rows, found.scores, strict=True):
            assert len(np.unique(scores)) <= 3
            for value in np.unique(scores):
                tied = rows[scores == value]
                np.testing.assert_array_equal(tied, np.sort(tied))


@given(
    count=st.integers(1, 30),
    dim=st.integers(1, 20),
    exponents=st.tuples(st.integers(-12, 12), st.integers(-12, 12)),
    spread=st.integers(0, 6),
    k=st.integers(1, 40),
)
@settings(max_examples=40, deadline=None)
def test_any_shape_and_magnitude(tmp_path_factory, build, *, count, dim, exponents, spread, k) -> None:
    folder = tmp_path_factory.mktemp("scales") / "index"
    lengths = 10.0 ** (exponents[0] + spread * (keyed_uniform((count, 1), "lengths", count) - 0.5))
    vectors = (keyed_normal((count, dim), "any", count, dim) * lengths).astype(np.float32)
    queries = keyed_normal((3, dim), "query", dim) * np.float32(10.0 ** exponents[1])
    index = build(folder, vectors)
    truth = brute_force(vectors, queries)
    size = np.abs(queries).max() * np.abs(vectors).max() * dim
    np.testing.assert_allclose(index.scores(queries), truth, rtol=1e-5, atol=1e-6 * size)
    found = index.search(queries, k)
    assert found.rows.shape == (3, min(k, count))
    # The true scores of the answer are the true best ones, up to float32 rounding of near ties.
    best = -np.sort(-truth, axis=1)[:, :k]
    np.testing.assert_allclose(np.take_along_axis(truth, found.rows, axis=1), best, rtol=1e-5, atol=2e-6 * size)


def test_no_queries_give_no_answers(folder: Path, build, vectors) -> None:
    index = build(folder, vectors)
    assert index.search(np.empty((0, 12)), 3).rows.shape == (0, 3)
    assert index.scores(np.empty((0, 12))).shape == (0, 50)


def test_vectors_come_back_by_row(folder: Path, build, vectors) -> None:
    index = build(folder, vectors)
    np.testing.assert_array_equal(index.vectors([49, 0, 7]), from_half(*to_half(vectors))[[49, 0, 7]])
    for row in (-1, 50):
        with pytest.raises(SearchIndexError, match=rf"row {row} is outside the index, which has rows 0 to 49"):
            index.vectors([3, row])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_query_that_is_not_finite_is_refused(folder: Path, build, vectors, queries, value: float) -> None:
    index = build(folder, vectors)
    spoilt = queries.astype(np.float64)
    spoilt[3, 5] = value
    for ask in (index.scores, lambda asked: index.search(asked, 3)):
        with pytest.raises(SearchIndexError, match="query 3 is not finite"):
            ask(spoilt)


def test_a_query_of_another_shape_is_refused(folder: Path, build, vectors, queries) -> None:
    index = build(folder, vectors)
    for wrong in (queries[0], queries[:, :11], queries[None]):
        with pytest.raises(SearchIndexError, match=r"the index needs \[number of queries, 12\]"):
            index.search(wrong, 3)
    with pytest.raises(SearchIndexError, match="k is 0"):
        index.search(queries, 0)
