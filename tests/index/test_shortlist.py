"""Short codes: a scan proposes, a byte for each direction ranks, exact scores decide; kept where they find enough."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebear.config import plain
from forebear.errors import SearchIndexError
from forebear.files import sha256_of_file, write_json
from forebear.index import IndexConfig, VectorIndex, shortlist
from forebear.index.matrix import write_matrix
from forebear.index.recall import sample
from forebear.randomness import keyed_normal, keyed_uniform

faiss = pytest.importorskip("faiss", reason="install forebear[cpu]")

SHORT = {"kind": "rabitq", "short_codes_from": 1}
FORCED = {**SHORT, "short_recall": 0, "recall_floor": 0}


def low_rank(name: str, count: int, dim: int = 160) -> np.ndarray:
    """float32[count, dim]: 40 directions that get weaker, noise in all, around a mean."""
    strengths = np.arange(1, 41, dtype=np.float32) ** -0.5
    inside = (keyed_normal((count, 40), name) * strengths) @ keyed_normal((40, dim), "basis")
    return inside + 0.3 * keyed_normal((count, dim), name, "noise") + keyed_normal((dim,), "mean")


@pytest.fixture(scope="module")
def index(tmp_path_factory, build) -> VectorIndex:
    return build(tmp_path_factory.mktemp("short") / "index", low_rank("rows", 6000), **SHORT, min_candidates=500)


def best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def share(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([np.isin(mine, exact).mean() for mine, exact in zip(found, truth, strict=True)]))


def test_few_rows_are_scored_and_nearly_all_of_the_best_are_found(index: VectorIndex) -> None:
    codes = {"shortlist.faiss", "directions.i8", "shortlist.i8", "shortlist.f32"}
    assert set(index.description.files) == {"ids.parquet", "scales.f32", "vectors.f16", *codes}
    assert index.description.shortlist_width in (6, 12)
    assert index.description.recall.lowest >= 0.99
    queries = low_rank("queries", 40)
    scores = index.scores(queries)
    for sign, opponents in ((1, False), (-1, True)):
        found = index.search(queries, 100, opponents=opponents)
        assert share(found.rows, best(sign * scores, 100)) >= 0.98
        np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, found.rows, axis=1))
        np.testing.assert_array_equal(found.rows[:, 0], np.argmax(sign * scores, axis=1))


def test_answers_do_not_depend_on_the_batch_or_the_length_of_a_query(index: VectorIndex) -> None:
    queries = low_rank("queries", 9)
    together = index.search(queries, 20)
    for number, query in enumerate(queries):
        alone = index.search(query[None], 20)
        np.testing.assert_array_equal(alone.rows[0], together.rows[number])
        np.testing.assert_array_equal(alone.scores[0], together.scores[number])
    for exponent in (-40, 40):
        np.testing.assert_array_equal(index.search(queries * np.float32(2.0**exponent), 20).rows, together.rows)


def test_a_long_answer_is_complete(index: VectorIndex) -> None:
    queries = low_rank("queries", 2)
    np.testing.assert_array_equal(index.search(queries, 6000).rows, best(index.scores(queries), 6000))


def test_codes_that_find_too_little_are_not_kept(folder: Path, build) -> None:
    """Numbers without leading directions: the index is the one that there would be without short codes."""
    vectors = keyed_normal((3000, 256), "all alike")
    settings = {"kind": "rabitq", "refine_factor": 3, "min_candidates": 1, "recall_floor": 0}
    tried = build(folder, vectors, **settings, short_codes_from=1, short_recall=1)
    assert tried.description.shortlist_width == 0
    assert not list(folder.glob("shortlist*"))
    scanned = build(folder.with_name("scanned"), vectors, **settings)
    assert tried.description.recall == scanned.description.recall
    queries = keyed_normal((5, 256), "asked")
    np.testing.assert_array_equal(tried.search(queries, 30).rows, scanned.search(queries, 30).rows)


def test_the_least_width_that_finds_enough_is_kept(folder: Path, build) -> None:
    vectors = keyed_normal((3000, 64), "all alike")
    settings = {**SHORT, "refine_factor": 1, "min_candidates": 1, "recall_floor": 0, "short_factor": 8}
    least = build(folder, vectors, **settings, short_recall=0).description
    more = build(folder, vectors, **settings, short_recall=least.recall.lowest + 0.01).description
    assert (least.shortlist_width, more.shortlist_width) == (8, 16)
    assert more.recall.lowest >= least.recall.lowest + 0.01


def test_nothing_is_learnt_from_rows_that_recall_is_measured_with(tmp_path: Path) -> None:
    vectors = low_rank("rows", 500, 40)
    apart = sample(500, IndexConfig())
    projections = []
    for sign in (1, -1):
        vectors[apart] *= sign
        place = tmp_path / str(sign)
        place.mkdir()
        matrix = write_matrix(place, [(0, vectors)], 500, 40)
        shortlist.write_shortlist(place, matrix, apart)
        scanned = faiss.read_index(str(place / shortlist.SHORTLIST_FILE))
        directions = np.fromfile(place / shortlist.DIRECTIONS_FILE, np.int8)
        steps = np.fromfile(place / shortlist.STEPS_FILE, "<f4")
        projections.append((directions, faiss.vector_to_array(scanned.pq.centroids), steps))
    for one, other in zip(*projections, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dim", [1, 3, 30, 200, 1100])
def test_directions_are_the_leading_ones(dim: int) -> None:
    rows = low_rank("rows", 700, dim)
    rows -= rows.mean(axis=0)
    directions, tables = shortlist._leading_directions(rows)
    assert len(directions) % tables == 0
    assert tables <= shortlist.TABLES
    used = directions[np.abs(directions).max(axis=1) > 0]
    assert len(used) == min(dim, shortlist.DIRECTIONS)
    np.testing.assert_allclose(used @ used.T, np.eye(len(used)), atol=1e-4)
    most = np.linalg.eigvalsh((rows.T @ rows).astype(np.float64))[::-1][: len(used)].sum()
    assert ((rows @ used.T) ** 2).sum() >= 0.999 * most


@given(st.integers(1, 16), st.integers(1, 8), st.floats(0, 3))
def test_tables_share_the_variance(tables: int, each: int, fall: float) -> None:
    variances = np.arange(1, tables * each + 1, dtype=np.float32) ** np.float32(-fall)
    order = shortlist._balanced(variances, tables)
    assert sorted(order) == list(range(tables * each))
    spread = np.ptp(np.log(variances[order]).reshape(tables, each).sum(axis=1))
    assert spread <= np.ptp(np.log(variances).reshape(tables, each).sum(axis=1)) + 1e-4


@pytest.mark.parametrize("count", [1, 2, 11, 40])
def test_a_handful_of_vectors(folder: Path, build, count: int) -> None:
    index = build(folder, low_rank("rows", count, 12), **FORCED, min_candidates=1, refine_factor=1)
    found = np.sort(index.search(keyed_normal((5, 12), "asked"), 50).rows, axis=1)
    np.testing.assert_array_equal(found, np.tile(np.arange(count), (5, 1)))


@pytest.mark.parametrize("case", ["zeros", "twelve orders of magnitude", "one"])
def test_vectors_without_a_spread(folder: Path, build, case: str) -> None:
    vectors = low_rank("rows", 2000, 32)
    if case == "zeros":
        vectors[::2] = 0
    elif case == "one":
        vectors[:] = vectors[0]
    else:
        vectors *= (10.0 ** (12 * keyed_uniform((2000, 1), "orders") - 6)).astype(np.float32)
    index = build(folder, vectors, **FORCED)
    assert index.description.shortlist_width
    for queries in (low_rank("asked", 3, 32), np.zeros((1, 32), np.float32)):
        found = index.search(queries, 5)
        np.testing.assert_array_equal(found.scores, np.take_along_axis(index.scores(queries), found.rows, axis=1))
        assert all(len(np.unique(rows)) == 5 for rows in found.rows)


@pytest.mark.parametrize("magnitude", [1e-12, 1e12])
def test_magnitude_does_not_matter(folder: Path, build, magnitude: float) -> None:
    index = build(folder, low_rank("rows", 2500) * np.float32(magnitude), **SHORT)
    assert index.description.shortlist_width
    queries = low_rank("queries", 20) * np.float32(magnitude)
    assert share(index.search(queries, 10).rows, best(index.scores(queries), 10)) >= 0.98


def test_a_damaged_file_is_refused(folder: Path, build) -> None:
    index = build(folder, low_rank("rows", 300, 32), **FORCED)
    path = folder / "shortlist.faiss"
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(SearchIndexError, match=r"shortlist\.faiss does not match its checksum; run `forebear index"):
        VectorIndex.open(folder)
    path.write_bytes(b"not an index")
    description = plain(index.description)
    description["files"]["shortlist.faiss"] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    write_json(folder / "index.json", description)
    with pytest.raises(SearchIndexError, match="cannot be read by FAISS"):
        VectorIndex.open(folder)
    path.write_bytes(whole)
    for name in shortlist.SHORTLIST_FILES:
        description = plain(index.description)
        del description["files"][name]
        write_json(folder / "index.json", description)
        with pytest.raises(SearchIndexError, match=rf"does not list {name}"):
            VectorIndex.open(folder)
    write_json(folder / "index.json", plain(index.description))
    for name in ("directions.i8", "shortlist.f32"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        with pytest.raises(SearchIndexError, match=rf"{name} does not match its checksum"):
            VectorIndex.open(folder)
        path.write_bytes(whole)
    several = folder / "shortlist.i8"
    several.write_bytes(several.read_bytes()[:-1] + b"?")
    with pytest.raises(SearchIndexError, match=r"shortlist\.i8 does not match its checksum"):
        VectorIndex.open(folder).verify()


def test_an_index_of_the_format_before_is_read_as_it_is(folder: Path, build) -> None:
    """It has neither short codes nor the settings for them."""
    queries = low_rank("queries", 4, 32)
    before = build(folder, low_rank("rows", 2000, 32), kind="rabitq", recall_floor=0).search(queries, 10)
    values = json.loads((folder / "index.json").read_text())
    values["format_version"] = 2
    for holder, name in (
        (values, "shortlist_width"),
        (values["config"], "short_codes_from"),
        (values["config"], "short_recall"),
        (values["config"], "short_factor"),
    ):
        del holder[name]
    (folder / "index.json").write_text(json.dumps(values))
    np.testing.assert_array_equal(VectorIndex.open(folder).search(queries, 10).scores, before.scores)


@pytest.mark.parametrize("dim", [160, 4096])
def test_bytes_of_a_row_are_those_of_the_file(folder: Path, build, dim: int) -> None:
    sizes = {}
    for count in (1024, 4096):
        place = folder / str(count)
        build(place, keyed_normal((count, dim), "sizes"), **FORCED)
        sizes[count] = sum((place / name).stat().st_size for name in shortlist.SHORTLIST_FILES)
    assert (sizes[4096] - sizes[1024]) / 3072 == shortlist.bytes_each(dim)
