"""Products of bytes against NumPy's whole numbers, and what is lost by rounding to bytes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebear.index import integers
from forebear.index.integers import ByteRows, rounded
from forebear.randomness import keyed_normal, keyed_uniform

pytest.importorskip("numkong", reason="install forebear[cpu]")


def whole(name: str, count: int, dim: int) -> np.ndarray:
    """int8[count, dim], every byte there is among them."""
    return (keyed_uniform((count, dim), name) * 256).astype(np.uint8).view(np.int8)


def exact(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return queries.astype(np.int64) @ rows.astype(np.int64).T


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 300))
def test_products_are_whole_numbers(asked: int, count: int, dim: int) -> None:
    queries, rows = whole("queries", asked, dim), whole("rows", count, dim)
    np.testing.assert_array_equal(ByteRows(rows).products(queries), exact(queries, rows))


@pytest.mark.parametrize("ends", [(-128, -128), (-128, 127), (127, 127)])
@pytest.mark.parametrize("dim", [31, 1024, 4097])
def test_the_largest_numbers_do_not_saturate(dim: int, ends: tuple[int, int]) -> None:
    """Instructions that multiply bytes in pairs can: 2 * 128 * 128 is more than 16 bits hold."""
    query, row = (np.full((1, dim), end, np.int8) for end in ends)
    assert ByteRows(row).products(query) == dim * ends[0] * ends[1]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 20])
def test_chosen_rows_are_those_of_all(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(integers, "GATHERED_BYTES", 8 * 100)
    rows, query = ByteRows(whole("rows", 500, 100)), whole("query", 1, 100)
    chosen = np.sort((keyed_uniform((count,), "chosen") * 500).astype(np.int64))
    np.testing.assert_array_equal(rows.products_with(query[0], chosen), rows.products(query)[0, chosen])


def test_threads_ask_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "GATHERED_BYTES", 64 * 1024)
    held = whole("rows", 2000, 1024)
    rows, queries = ByteRows(held), whole("queries", 16, 1024)
    chosen = np.arange(0, 2000, 3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: rows.products_with(query, chosen), np.tile(queries, (8, 1))))
    np.testing.assert_array_equal(found, np.tile(exact(queries, held[chosen]), (8, 1)))


def test_rounding_errs_by_half_a_step_at_most() -> None:
    vectors = keyed_normal((20, 200), "vectors") * np.float32(10.0) ** np.arange(-10, 10, dtype=np.float32)[:, None]
    vectors[3] = 0
    found, steps = rounded(vectors)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(np.abs(found).max(axis=1), np.where(vectors.any(axis=1), 127, 0))
    assert np.all(np.abs(found * steps[:, None] - vectors) <= 0.5001 * steps[:, None])
    for exponent in (-60, 60):
        np.testing.assert_array_equal(rounded(vectors * np.float32(2.0**exponent))[0], found)


def test_no_product_of_long_vectors_passes_what_is_added_up() -> None:
    rows, _ = rounded(np.ones((1, 300_000), np.float32))
    assert ByteRows(rows).products(rows) == exact(rows, rows) <= integers.LARGEST_SUM
