"""Approximate search: FAISS proposes, exact scores decide, and recall is measured."""

import sys
from pathlib import Path

import numpy as np
import pytest

from forebear.errors import SearchIndexError
from forebear.files import write_json
from forebear.index import IndexConfig, VectorIndex
from forebear.randomness import keyed_integers, keyed_normal, keyed_uniform

faiss = pytest.importorskip("faiss", reason="install forebear[cpu]")


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """4000 vectors in 32 dimensions: clusters around an offset with uneven lengths, as gradients have them."""
    centres = keyed_normal((40, 32), "centres")[keyed_integers(40, (4000,), "member")]
    directions = 0.7 * centres + keyed_normal((4000, 32), "directions") + 0.3 * keyed_normal((32,), "offset")
    return (directions * np.exp(0.5 * keyed_normal((4000, 1), "lengths"))).astype(np.float32)


@pytest.fixture(scope="module")
def probes() -> np.ndarray:
    return keyed_normal((30, 32), "probes")


def shared_mean(name: str) -> np.ndarray:
    """3000 unit vectors in 64 dimensions with a strong mean: what unit_mean gradients look like."""
    vectors = keyed_normal((3000, 64), name) + 1.5 * keyed_normal((64,), "mean")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recall_of(found: np.ndarray, truth: np.ndarray, width: int) -> float:
    """Mean share of the `width` best rows by truth float32[Q, N] among found int[Q, width]."""
    best = np.argsort(-truth, axis=1)[:, :width]
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, best, strict=True)])) / width


def test_auto_goes_by_size(folder: Path, build, vectors) -> None:
    assert build(folder, vectors, exact_limit=50).description.kind == "exact"
    assert build(folder, vectors, exact_limit=49).description.kind == "rabitq"
    assert build(folder, vectors, kind="exact", exact_limit=49).description.kind == "exact"


def test_recall_is_high_and_scores_are_exact(folder: Path, build, many, probes) -> None:
    index = build(folder, many, kind="rabitq", refine_factor=20, min_candidates=400)
    recall = index.description.recall
    assert recall.queries == 64
    assert recall.lowest >= 0.95
    truth = index.scores(probes)
    for opponents in (False, True):
        found = index.search(probes, 10, opponents=opponents)
        np.testing.assert_array_equal(found.scores, np.take_along_axis(truth, found.rows, axis=1))
        assert (np.diff(found.scores if opponents else -found.scores, axis=1) >= 0).all()
        assert recall_of(found.rows, -truth if opponents else truth, 10) >= 0.95


@pytest.mark.parametrize("sign", [1, -1], ids=["proponents", "opponents"])
@pytest.mark.parametrize("length", [0.01, 1, 100])
def test_no_worse_than_faiss_with_its_own_refinement(folder: Path, build, sign: int, length: float) -> None:
    """With as many candidates: as good where FAISS is good, and still good where it loses the mean."""
    index = build(folder, shared_mean("rows"), kind="rabitq", refine_factor=8, min_candidates=1, recall_floor=0)
    stored = index.vectors(np.arange(3000))
    faiss_alone = faiss.index_factory(64, "RaBitQfs,Refine(SQfp16)", faiss.METRIC_INNER_PRODUCT)
    faiss_alone.train(stored)
    faiss_alone.add(stored)
    faiss_alone.k_factor = 8
    queries = np.float32(length) * shared_mean("queries")[:50]
    truth = sign * index.scores(queries)
    _, theirs = faiss_alone.search(sign * queries, 10)
    ours = recall_of(index.search(queries, 10, opponents=sign < 0).rows, truth, 10)
    assert ours >= recall_of(theirs, truth, 10) - 0.02
    assert ours >= 0.75


def test_the_length_of_a_query_does_not_matter(folder: Path, build) -> None:
    index = build(folder, shared_mean("rows"), kind="rabitq", refine_factor=4, min_candidates=1, recall_floor=0)
    queries = shared_mean("queries")[:50]
    rows = index.search(queries, 10).rows
    for exponent in (-40, -3, 5, 40):
        np.testing.assert_array_equal(index.search(queries * np.float32(2.0**exponent), 10).rows, rows)


def test_measured_recall_is_what_a_user_gets(folder: Path, build, many) -> None:
    """Measured here again, in plain NumPy, with every vector as a query that is left out of its own answer."""
    index = build(folder, many[:600], kind="rabitq", refine_factor=2, min_candidates=1, recall_queries=600)
    truth = index.scores(index.vectors(np.arange(600)))
    np.fill_diagonal(truth, -np.inf)
    found = index.search(index.vectors(np.arange(600)), 11).rows
    others = np.stack([rows[rows != own][:10] for own, rows in enumerate(found)])
    assert index.description.recall.queries == 600
    assert index.description.recall.at_10 == pytest.approx(recall_of(others, truth, 10), abs=1e-6)
    np.fill_diagonal(truth, np.inf)
    found = index.search(index.vectors(np.arange(600)), 101, opponents=True).rows
    others = np.stack([rows[rows != own][:100] for own, rows in enumerate(found)])
    assert index.description.recall.opponents_at_100 == pytest.approx(recall_of(others, -truth, 100), abs=1e-6)


def test_low_recall_is_refused_unless_allowed(folder: Path, build, many, probes) -> None:
    built = build(folder, many, kind="rabitq", refine_factor=1, min_candidates=1, recall_floor=0.99)
    assert built.description.recall.lowest < 0.99
    with pytest.raises(SearchIndexError, match=r"its floor is 99\.0%; run `forebear index .*--refine-factor"):
        VectorIndex.open(folder)
    allowed = VectorIndex.open(folder, allow_low_recall=True)
    np.testing.assert_array_equal(allowed.search(probes, 5).rows, built.search(probes, 5).rows)


@pytest.mark.parametrize("magnitude", [1e-12, 1e12])
def test_magnitude_does_not_matter(folder: Path, build, many, probes, magnitude: float) -> None:
    index = build(folder, many * np.float32(magnitude), kind="rabitq", refine_factor=20, min_candidates=400)
    assert index.description.recall.lowest >= 0.95
    queries = probes * np.float32(magnitude)
    truth = index.scores(queries)
    assert recall_of(index.search(queries, 10).rows, truth, 10) >= 0.95


def test_lengths_that_differ_by_twelve_orders_of_magnitude(folder: Path, build, many, probes) -> None:
    lengths = (10.0 ** (12 * keyed_uniform((4000, 1), "orders") - 6)).astype(np.float32)
    index = build(folder, many * lengths, kind="rabitq", recall_floor=0)
    truth = index.scores(probes)
    found = index.search(probes, 10)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(truth, found.rows, axis=1))
    assert np.isfinite(found.scores).all()


def test_a_query_of_zeros_and_rows_of_zeros(folder: Path, build, many) -> None:
    many = many.copy()
    many[::2] = 0
    index = build(folder, many, kind="rabitq", recall_floor=0)
    found = index.search(np.zeros((1, 32)), 5)
    np.testing.assert_array_equal(found.scores, 0)
    assert len(np.unique(found.rows)) == 5


def test_a_long_answer_is_complete_and_exact(folder: Path, build, many, probes) -> None:
    index = build(folder, many, kind="rabitq")
    found = index.search(probes[:2], 5000)
    np.testing.assert_array_equal(found.rows, np.argsort(-index.scores(probes[:2]), axis=1, kind="stable"))


@pytest.mark.parametrize("count", [1, 2, 11])
def test_a_handful_of_vectors(folder: Path, build, many, probes, count: int) -> None:
    index = build(folder, many[:count], kind="rabitq", min_candidates=1, refine_factor=1)
    np.testing.assert_array_equal(np.sort(index.search(probes, 20).rows, axis=1), np.tile(np.arange(count), (30, 1)))


def test_a_damaged_faiss_file_is_refused(folder: Path, build, many) -> None:
    build(folder, many, kind="rabitq", recall_floor=0)
    path = folder / "away.faiss"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(SearchIndexError, match=r"away\.faiss has \d+ bytes instead of"):
        VectorIndex.open(folder)
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(SearchIndexError, match=r"away\.faiss does not match its checksum; run `forebear index --run"):
        VectorIndex.open(folder)


def test_a_file_that_faiss_cannot_read_is_refused(folder: Path, build, many) -> None:
    from forebear.config import plain
    from forebear.files import sha256_of_file

    index = build(folder, many, kind="rabitq", recall_floor=0)
    path = folder / "away.faiss"
    path.write_bytes(b"not an index")
    description = plain(index.description)
    description["files"]["away.faiss"] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    write_json(folder / "index.json", description)
    with pytest.raises(SearchIndexError, match="cannot be read by FAISS"):
        VectorIndex.open(folder)


@pytest.mark.parametrize("library", ["faiss", "numkong"])
def test_without_a_library_the_message_says_what_to_install(
    folder: Path, build, vectors, monkeypatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SearchIndexError, match=r"install forebear\[cpu\] or forebear\[gpu\], or choose exact search"):
        build(folder, vectors, kind="rabitq")
    assert not folder.parent.exists() or not any(folder.parent.iterdir())
    assert build(folder, vectors).description.kind == "exact"


def test_settings_are_checked() -> None:
    from pydantic import ValidationError

    for values in ({"kind": "ivf"}, {"refine_factor": 0}, {"recall_floor": 1.5}, {"nprobe": 8}):
        with pytest.raises(ValidationError):
            IndexConfig(**values)


@pytest.mark.parametrize("dim", [1, 3, 2047, 4096, 12288])
def test_long_vectors_do_not_overflow_the_scan(folder: Path, build, dim: int) -> None:
    """FAISS alone loses the best rows of long vectors, whatever the number of candidates: their sums wrap around."""
    vectors = keyed_normal((500, dim), "long", dim) + 0.5 * keyed_normal((dim,), "mean", dim)
    vectors[250:] = 0.6 * vectors[:250] + 0.8 * vectors[250:]
    index = build(folder, vectors, kind="rabitq", refine_factor=8, min_candidates=1, recall_queries=16, recall_floor=0)
    assert index.description.recall.at_10 >= (0.9 if dim > 3 else 0.3)
    found = index.search(index.vectors(np.arange(50)), 1).rows[:, 0]
    truth = np.argmax(index.scores(index.vectors(np.arange(50))), axis=1)
    assert (found == truth).mean() >= (1 if dim > 3 else 0.5)


def test_no_sum_of_table_entries_can_overflow() -> None:
    """The bound itself: with every bit as the query would have it, where FAISS alone would be far above 16 bits."""
    from forebear.index import codes

    for dim in (4, 1024, 4096, 12288, 65536):
        queries = np.concatenate([keyed_normal((3, dim), "q", dim), np.ones((1, dim)), np.eye(1, dim)])
        center = np.pad(0.1 * keyed_normal((dim,), "c", dim), (0, codes.TABLE))
        asked = codes._ballasted(queries.astype(np.float32), center)
        spans = np.abs(asked - center).reshape(len(asked), -1, codes.TABLE).sum(axis=2)  # [Q, tables]
        bytes_of = np.ceil(255 * spans / spans.max(axis=1, keepdims=True) + 0.5)
        assert bytes_of.sum(axis=1).max() < 2**16
        np.testing.assert_array_equal(asked[:, -codes.TABLE :].sum(axis=1), 0)  # adds nothing to a row of zeros


def test_an_index_of_codes_of_the_first_format_is_refused(folder: Path, build, many) -> None:
    import json

    build(folder, many, kind="rabitq", recall_floor=0)
    values = json.loads((folder / "index.json").read_text())
    values["format_version"] = 1
    (folder / "index.json").write_text(json.dumps(values))
    with pytest.raises(SearchIndexError, match=r"not an index of format version 5 but 1; run `forebear index"):
        VectorIndex.open(folder)
