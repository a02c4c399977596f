"""Searches that may answer with some rows only, against NumPy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebear.errors import SearchIndexError
from forebear.index import VectorIndex, ranking
from forebear.randomness import keyed_integers, keyed_normal, keyed_permutation

ROWS = st.lists(st.integers(0, 59), max_size=80)


@pytest.fixture(scope="module")
def exact(tmp_path_factory, build) -> VectorIndex:
    """60 vectors in 6 dimensions, of which each is there twice."""
    vectors = np.repeat(keyed_normal((30, 6), "filtered"), 2, axis=0)
    return build(tmp_path_factory.mktemp("filtered") / "exact", vectors)


@pytest.fixture(scope="module", params=[{}, {"short_codes_from": 1, "short_recall": 0}], ids=["codes", "short codes"])
def coded(tmp_path_factory, build, request) -> VectorIndex:
    """3000 vectors in 32 dimensions, searched by codes."""
    pytest.importorskip("faiss", reason="install forebear[cpu]")
    vectors = keyed_normal((3000, 32), "coded")
    folder = tmp_path_factory.mktemp("filtered") / "coded"
    return build(folder, vectors, kind="rabitq", min_candidates=60, recall_floor=0, **request.param)


def truth(index: VectorIndex, queries: np.ndarray, rows: np.ndarray, k: int, *, opponents: bool) -> np.ndarray:
    """int64[Q, k']: the best of `rows` by a stable sort of all scores."""
    scores = index.scores(queries)[:, rows]
    return rows[np.argsort(scores if opponents else -scores, axis=1, kind="stable")[:, :k]]


@given(allow=st.none() | ROWS, deny=st.none() | ROWS, k=st.integers(1, 70), opponents=st.booleans())
def test_an_exact_index_answers_as_a_sort_of_the_allowed_rows(
    exact: VectorIndex, allow: list[int] | None, deny: list[int] | None, k: int, *, opponents: bool
) -> None:
    queries = keyed_normal((2, 6), "asked")
    rows = np.array(sorted(set(range(60) if allow is None else allow) - set(deny or ())), np.int64)
    found = exact.search(queries, k, opponents=opponents, allow=allow, deny=deny)
    assert found.rows.shape == found.scores.shape == (2, min(k, len(rows)))
    np.testing.assert_array_equal(found.rows, truth(exact, queries, rows, k, opponents=opponents))
    np.testing.assert_array_equal(found.scores, np.take_along_axis(exact.scores(queries), found.rows, axis=1))


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_few_allowed_rows_are_answered_exactly_by_codes_too(coded: VectorIndex, share: float) -> None:
    rows = np.sort(keyed_permutation(3000, "few")[: int(share * 1500)])
    queries = keyed_normal((20, 32), "asked")
    for opponents in (False, True):
        found = coded.search(queries, 10, opponents=opponents, allow=rows)
        np.testing.assert_array_equal(found.rows, truth(coded, queries, rows, 10, opponents=opponents))


@pytest.mark.parametrize("opponents", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_many_allowed_rows(coded: VectorIndex, share: float, *, opponents: bool) -> None:
    rows = np.sort(keyed_permutation(3000, "many")[: int(share * 3000)])
    queries = keyed_normal((30, 32), "asked")
    found = coded.search(queries, 10, opponents=opponents, allow=rows)
    assert np.isin(found.rows, rows).all()
    np.testing.assert_array_equal(found.scores, np.take_along_axis(coded.scores(queries), found.rows, axis=1))
    best = truth(coded, queries, rows, 10, opponents=opponents)
    hits = [len(np.intersect1d(mine, exact)) for mine, exact in zip(found.rows, best, strict=True)]
    unfiltered = coded.description.recall.opponents_at_10 if opponents else coded.description.recall.at_10
    assert np.mean(hits) / 10 >= unfiltered - 0.05


def test_a_denied_neighbourhood_does_not_shorten_the_answer(coded: VectorIndex, monkeypatch) -> None:
    """The 600 best are denied, so that none of those first proposed may be answered."""
    query = keyed_normal((1, 32), "asked")
    deny = truth(coded, query, np.arange(3000), 600, opponents=False)[0]
    for widest in (ranking.WIDEST, 1.0):  # scored one and all, and proposed anew
        monkeypatch.setattr(ranking, "WIDEST", widest)
        found = coded.search(query, 10, deny=deny)
        assert found.rows.shape == (1, 10)
        assert not np.isin(found.rows, deny).any()
        scores = coded.scores(query)[0]
        np.testing.assert_array_equal(found.scores[0], scores[found.rows[0]])
        assert (np.diff(found.scores) <= 0).all()


def test_lists_that_name_no_row_are_refused(exact: VectorIndex) -> None:
    query = np.ones((1, 6))
    with pytest.raises(SearchIndexError, match="row 60 is outside the index, which has rows 0 to 59"):
        exact.search(query, 3, allow=[0, 60])
    with pytest.raises(SearchIndexError, match="row -1 is outside"):
        exact.search(query, 3, deny=[-1])
    with pytest.raises(SearchIndexError, match="bool; give row numbers"):
        exact.search(query, 3, allow=np.ones(60, np.bool_))


def test_a_group_is_searched_by_its_rows(folder: Path, build) -> None:
    groups = keyed_integers(5, (50,), "groups")
    index = build(folder, keyed_normal((50, 12), "grouped"))
    for group in range(5):
        members = np.flatnonzero(groups == group)
        found = index.search(keyed_normal((3, 12), "asked"), 50, allow=members)
        np.testing.assert_array_equal(np.sort(found.rows, axis=1), np.tile(members, (3, 1)))
