"""An index in parts answers as one, is built on where it was left, and grows by parts."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebear.errors import SearchIndexError
from forebear.index import (
    IndexConfig,
    ShardedBuild,
    ShardedIndex,
    VectorIndex,
    build_index,
    open_search_index,
    serve_sharded_index,
)
from forebear.randomness import keyed_normal

COUNT, DIM = 90, 12


@pytest.fixture(scope="session")
def many() -> np.ndarray:
    """90 vectors, of which each is there three times, far apart."""
    return np.tile(keyed_normal((30, DIM), "parts"), (3, 1))


@pytest.fixture(scope="session")
def shard(in_blocks, metadata) -> Callable[..., ShardedIndex]:
    """Build an index of float32[N, D] in parts, each from the blocks that `blocks(vectors, rows)` gives of its rows."""

    def build(folder: Path, vectors: np.ndarray, shard_rows: int, blocks=None, source="", **config) -> ShardedIndex:
        build = ShardedBuild(
            folder,
            vectors.shape[1],
            [f"sample-{row}" for row in range(len(vectors))],
            shard_rows=shard_rows,
            config=IndexConfig(**config),
            metadata=metadata,
            source=lambda first, stop: f"{source} {first} {stop}",
        )
        for part in build.parts:
            if not build.keeps(part):
                part.build(blocks(vectors, part.rows) if blocks else in_blocks(vectors[part.rows], first=part.first))
        return build.finish()

    return build


@pytest.fixture(scope="module")
def whole(tmp_path_factory, build, many) -> VectorIndex:
    return build(tmp_path_factory.mktemp("whole") / "index", many)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, shard, many) -> dict[int, ShardedIndex]:
    """By rows of a part."""
    return {rows: shard(tmp_path_factory.mktemp("parts") / "index", many, rows) for rows in (1, 13, 30, 89, 200)}


def assert_same(one, other) -> None:
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.scores, other.scores)


@given(
    rows=st.sampled_from([1, 13, 30, 89, 200]),
    k=st.integers(1, 100),
    opponents=st.booleans(),
    allow=st.none() | st.lists(st.integers(0, COUNT - 1)),
    deny=st.none() | st.lists(st.integers(0, COUNT - 1)),
)
def test_parts_answer_as_one_index(sharded, whole, rows, k, allow, deny, *, opponents: bool) -> None:
    queries = keyed_normal((3, DIM), "asked")
    limits = {"opponents": opponents, "allow": allow, "deny": deny}
    assert_same(sharded[rows].search(queries, k, **limits), whole.search(queries, k, **limits))


@pytest.mark.parametrize("rows", [1, 13, 200])
def test_everything_else_is_that_of_one_index_too(sharded, whole, rows: int) -> None:
    index = sharded[rows]
    queries = keyed_normal((20, DIM), "asked")
    np.testing.assert_array_equal(index.scores(queries), whole.scores(queries))
    np.testing.assert_array_equal(index.vectors([89, 0, 12, 13, 12]), whole.vectors([89, 0, 12, 13, 12]))
    assert (len(index), index.dim, index.parts) == (COUNT, DIM, -(-COUNT // rows))
    assert list(index.ids) == list(whole.ids)
    assert index.description.metadata == whole.description.metadata
    index.verify()
    for row in (-1, COUNT):
        with pytest.raises(SearchIndexError, match=f"row {row} is outside the index, which has rows 0 to 89"):
            index.vectors([row])
    with pytest.raises(SearchIndexError, match="query 0 is not finite"):
        index.search(np.full((1, DIM), np.nan), 3)
    with pytest.raises(SearchIndexError, match="k is 0"):
        index.search(queries, 0)


@pytest.mark.parametrize("short_from", [4000, 1, 1000], ids=["codes", "short codes", "both"])
def test_parts_of_codes_find_the_best_too(tmp_path: Path, shard, *, short_from: int) -> None:
    pytest.importorskip("faiss", reason="install forebear[cpu]")
    vectors = keyed_normal((3000, 32), "coded")
    config = {"kind": "rabitq", "min_candidates": 100, "short_codes_from": short_from, "short_recall": 0}
    index = shard(tmp_path / "index", vectors, 1100, **config)
    files = ["shortlist.faiss" if short_from <= rows else "towards.faiss" for rows in (1100, 1100, 800)]
    for part, file in enumerate(files):
        assert (tmp_path / "index" / f"part-{part:05d}" / file).exists()
    assert index.description.kind == "rabitq"
    assert index.description.recall.note.startswith("lowest of 3 parts")
    queries = keyed_normal((30, 32), "asked")
    truth = index.scores(queries)
    for opponents in (False, True):
        found = index.search(queries, 10, opponents=opponents)
        np.testing.assert_array_equal(found.scores, np.take_along_axis(truth, found.rows, axis=1))
        best = np.argsort(truth if opponents else -truth, axis=1)[:, :10]
        hits = [len(np.intersect1d(mine, exact)) for mine, exact in zip(found.rows, best, strict=True)]
        assert np.mean(hits) / 10 >= index.description.recall.lowest - 0.02


def test_a_part_that_finds_too_little_is_refused_unless_allowed(tmp_path: Path, shard) -> None:
    pytest.importorskip("faiss", reason="install forebear[cpu]")
    vectors = keyed_normal((1500, 32), "coded")
    limits = {"kind": "rabitq", "refine_factor": 1, "min_candidates": 1, "recall_floor": 0.99}
    built = shard(tmp_path / "index", vectors, 800, **limits)
    with pytest.raises(SearchIndexError, match=r"its floor is 99\.0%; run `forebear index .*--allow-low-recall"):
        open_search_index(tmp_path / "index")
    allowed = open_search_index(tmp_path / "index", allow_low_recall=True)
    assert_same(allowed.search(vectors[:3], 5), built.search(vectors[:3], 5))


def test_an_interrupted_build_goes_on_with_the_part_it_was_at(folder: Path, shard, in_blocks, many, whole) -> None:
    def broken_off(vectors: np.ndarray, rows: slice) -> Iterator[tuple[int, np.ndarray]]:
        for first, block in in_blocks(vectors[rows], first=rows.start):
            if first >= 70:
                raise KeyboardInterrupt
            yield first, block

    def resumed(vectors: np.ndarray, rows: slice) -> Iterator[tuple[int, np.ndarray]]:
        assert rows == slice(60, 90)  # no row of a finished part is read
        return in_blocks(vectors[rows], first=rows.start)

    with pytest.raises(KeyboardInterrupt):
        shard(folder, many, 30, broken_off)
    assert not folder.exists()
    finished = sorted(path.name for path in folder.with_name("retrac.building").glob("part-*"))
    assert finished == ["part-00000", "part-00001"]
    before = [(folder.with_name("retrac.building") / name / "vectors.f16").stat().st_ino for name in finished]
    index = shard(folder, many, 30, resumed)
    assert [(folder / name / "vectors.f16").stat().st_ino for name in finished] == before
    assert [path.name for path in folder.parent.iterdir()] == ["retrac"]
    queries = keyed_normal((3, DIM), "asked")
    assert_same(index.search(queries, 20), whole.search(queries, 20))


def test_an_unchanged_index_is_not_read_again(folder: Path, shard, many) -> None:
    def unread(vectors: np.ndarray, rows: slice) -> Iterator[tuple[int, np.ndarray]]:
        raise AssertionError

    before = shard(folder, many, 30).search(many[:2], 9)
    assert_same(shard(folder, many, 30, unread).search(many[:2], 9), before)


def test_a_store_that_grew_adds_a_part(folder: Path, shard, in_blocks, build, many) -> None:
    old = shard(folder, many[:60], 30)
    before = [(folder / f"part-0000{part}" / "vectors.f16").stat().st_ino for part in (0, 1)]
    grown = shard(folder, many, 30)
    assert [(folder / f"part-0000{part}" / "vectors.f16").stat().st_ino for part in (0, 1)] == before
    assert (len(old), len(grown), grown.parts) == (60, 90, 3)
    assert len(old.search(many[:1], 90).rows[0]) == 60  # goes on as before
    assert_same(grown.search(many[:2], 90), build(folder.with_name("one"), many).search(many[:2], 90))


@pytest.mark.parametrize("change", ["source", "settings", "damage", "ids"])
def test_a_part_of_something_else_is_built_again(folder: Path, shard, many, change: str) -> None:
    shard(folder, many, 30)
    after = -many
    if change == "damage":
        path = folder / "part-00001" / "vectors.f16"
        whole = path.read_bytes()
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        after = many
    if change == "ids":
        index = shard(folder, after[:89], 89)
        assert index.parts == 1
        assert not (folder / "part-00001").exists()
    else:
        index = shard(folder, after, 30, source="other" if change == "source" else "", **_other(change))
    np.testing.assert_array_equal(index.scores(many[:1])[0] > 0, (after[: len(index)] @ many[0]) > 0)
    index.verify()


def _other(change: str) -> dict[str, int]:
    return {"exact_limit": 1000} if change == "settings" else {}


def test_one_part_gives_way_to_many_and_back(folder: Path, shard, build, many, whole) -> None:
    build(folder, many)
    assert open_search_index(folder).parts == 1
    shard(folder, many, 40)
    assert isinstance(open_search_index(folder, "plan-1"), ShardedIndex)
    with pytest.raises(SearchIndexError, match=r"another store \(plan plan-1, wanted plan-2\)"):
        open_search_index(folder, "plan-2")
    build(folder, many)
    assert isinstance(open_search_index(folder), VectorIndex)
    assert_same(open_search_index(folder).search(many[:2], 9), whole.search(many[:2], 9))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: values.update(format_version=1), "not an index of format version 5 but 1"),
        (lambda values: values.update(surprise=1), "surprise"),
        (lambda values: values.update(parts=[]), "lists no part"),
        (lambda values: values["parts"].reverse(), "do not follow on each other"),
        (lambda values: values["parts"][1].update(sha256="0"), r"part-00001 is not the part that shards\.json lists"),
        (lambda values: values["parts"][0].update(name="part-7"), r"index\.json does not exist"),
    ],
)
def test_a_damaged_list_of_parts_is_refused(folder: Path, shard, many, damage, message: str) -> None:
    shard(folder, many, 30)
    values = json.loads((folder / "shards.json").read_text())
    damage(values)
    (folder / "shards.json").write_text(json.dumps(values))
    with pytest.raises(SearchIndexError, match=message) as caught:
        open_search_index(folder)
    assert f"run `forebear index --run {folder.parent.parent}" in str(caught.value)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (lambda v, rows: [(rows.start, v[rows][:29])], "hold 29 vectors for 30 samples"),
        (lambda v, rows: [(rows.start + 1, v[rows])], "begins at row 1; expected row 0"),
        (lambda v, rows: [(rows.start, v[rows][:, :11])], "expected row 0 of 30 rows of 12 numbers"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(folder: Path, shard, many, blocks, message: str) -> None:
    with pytest.raises(SearchIndexError, match=message):
        shard(folder, many, 30, blocks)
    assert not folder.exists()


@pytest.mark.usefixtures("ray_session")
def test_ray_actors_answer_as_one_index(folder: Path, shard, many, whole) -> None:
    shard(folder, many, 45).close()
    index = serve_sharded_index(folder, "plan-1", cpus_per_part=0.5)
    try:
        queries = keyed_normal((5, DIM), "asked")
        for opponents in (False, True):
            for limits in ({}, {"allow": [3, 50, 80, 81]}, {"allow": [3, 5]}, {"deny": range(80)}, {"allow": []}):
                mine = index.search(queries, 20, opponents=opponents, **limits)
                assert_same(mine, whole.search(queries, 20, opponents=opponents, **limits))
        np.testing.assert_array_equal(index.scores(queries), whole.scores(queries))
        np.testing.assert_array_equal(index.vectors([80, 3, 45]), whole.vectors([80, 3, 45]))
        index.verify()
    finally:
        index.close()
    path = folder / "part-00001" / "vectors.f16"
    kept = path.read_bytes()
    path.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    index = serve_sharded_index(folder, cpus_per_part=0.5)
    try:
        wanted = rf"vectors\.f16 does not match its checksum; run `forebear index --run {folder.parent.parent} "
        with pytest.raises(SearchIndexError, match=wanted):
            index.verify()
    finally:
        index.close()


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, shard, in_blocks, metadata, many) -> None:
    shard(tmp_path / "a" / "index", many, 45)
    shard(tmp_path / "b" / "index", many, 45, lambda vectors, rows: in_blocks(vectors[rows], 50, rows.start))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 9
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    ids = [f"sample-{row}" for row in range(45)]
    build_index(tmp_path / "c", in_blocks(many[:45]), DIM, ids, config=IndexConfig(), metadata=metadata)
    part = tmp_path / "a" / "index" / "part-00000"
    assert (tmp_path / "c" / "vectors.f16").read_bytes() == (part / "vectors.f16").read_bytes()
