"""An index on disk: whole, reproducible, and refused when damaged or foreign."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forebear.errors import SearchIndexError
from forebear.files import sha256_of_file
from forebear.index import IndexConfig, VectorIndex, build_index
from forebear.store import SIGN


@pytest.mark.parametrize(
    "settings",
    [{"kind": "exact"}, {"kind": "rabitq"}, {"kind": "rabitq", "short_codes_from": 1, "short_recall": 0}],
    ids=["exact", "rabitq", "short codes"],
)
def test_the_same_vectors_give_the_same_bytes(
    tmp_path: Path, build, in_blocks, metadata, vectors, *, settings: dict[str, Any]
) -> None:
    if settings["kind"] == "rabitq":
        pytest.importorskip("faiss", reason="install forebear[cpu]")
    build(tmp_path / "a", vectors, **settings)
    ids = [f"sample-{row}" for row in range(50)]
    config = IndexConfig(**settings)
    build_index(tmp_path / "b", in_blocks(vectors, 50), 12, ids, config=config, metadata=metadata)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_index_json_says_what_is_there(folder: Path, build, vectors) -> None:
    index = build(folder, vectors)
    values = json.loads((folder / "index.json").read_text())
    assert values["metadata"] == {
        "estimator": "retrac",
        "store_plan_hash": "plan-1",
        "checkpoints": [{"name": "step-00000010", "weight": 0.5}],
        "sign": SIGN,
    }
    assert (values["kind"], values["count"], values["dim"]) == ("exact", 50, 12)
    assert values["recall"]["at_10"] == values["recall"]["at_100"] == 1.0
    assert values["recall"]["queries"] == 0
    assert "by definition" in values["recall"]["note"]
    assert set(values["files"]) == {"vectors.f16", "scales.f32", "ids.parquet"}
    for name, record in values["files"].items():
        assert record == {"bytes": (folder / name).stat().st_size, "sha256": sha256_of_file(folder / name)}
    assert (len(index), index.dim) == (50, 12)


def test_ids_keep_the_order_of_rows(folder: Path, in_blocks, metadata, vectors) -> None:
    ids = [f"id-{(row * 17) % 50}" for row in range(50)]
    build_index(folder, in_blocks(vectors), 12, ids, config=IndexConfig(), metadata=metadata)
    assert list(VectorIndex.open(folder).ids) == ids
    table = pq.read_table(folder / "ids.parquet")
    assert table["row"].to_pylist() == list(range(50))
    assert table["sample_id"].to_pylist() == ids


def _broken_off(vectors: np.ndarray):
    yield 0, vectors[:20]
    raise KeyboardInterrupt


def test_an_interrupted_build_leaves_the_old_index(folder: Path, build, metadata, vectors, queries) -> None:
    before = build(folder, vectors).search(queries, 5)
    ids = [f"sample-{row}" for row in range(50)]
    with pytest.raises(KeyboardInterrupt):
        build_index(folder, _broken_off(2 * vectors), 12, ids, config=IndexConfig(), metadata=metadata)
    assert [path.name for path in folder.parent.iterdir()] == ["retrac"]
    np.testing.assert_array_equal(VectorIndex.open(folder).search(queries, 5).scores, before.scores)


def test_an_interrupted_first_build_leaves_nothing(folder: Path, metadata, vectors) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(
            folder,
            _broken_off(vectors),
            12,
            [str(row) for row in range(50)],
            config=IndexConfig(),
            metadata=metadata,
        )
    assert not any(folder.parent.iterdir())


def test_what_a_killed_build_left_is_removed(folder: Path, build, vectors) -> None:
    leftover = folder.with_name("retrac.part-4711")
    leftover.mkdir(parents=True)
    (leftover / "vectors.f16").write_bytes(b"half")
    build(folder, vectors)
    assert [path.name for path in folder.parent.iterdir()] == ["retrac"]


def test_a_kill_between_the_renames_loses_nothing(folder: Path, build, vectors, queries) -> None:
    before = build(folder, vectors).search(queries, 5)
    folder.rename(folder.with_name("retrac.old"))  # where the swap had come to
    stranded = VectorIndex.open(folder, "plan-1")
    np.testing.assert_array_equal(stranded.search(queries, 5).scores, before.scores)
    after = build(folder, 2 * vectors).search(queries, 5)
    assert [path.name for path in folder.parent.iterdir()] == ["retrac"]
    np.testing.assert_array_equal(after.scores, 2 * before.scores)
    np.testing.assert_array_equal(stranded.search(queries, 5).scores, before.scores)


def test_a_failed_swap_leaves_the_old_index_readable(folder: Path, build, vectors, queries, monkeypatch) -> None:
    before = build(folder, vectors).search(queries, 5)
    rename = Path.rename

    def fail_at_the_second(self: Path, target: Path) -> Path:
        if ".part-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        build(folder, 2 * vectors)
    np.testing.assert_array_equal(VectorIndex.open(folder).search(queries, 5).scores, before.scores)


def test_an_open_index_goes_on_when_it_is_replaced(folder: Path, build, vectors, queries) -> None:
    old = build(folder, vectors)
    before = old.search(queries, 5)
    build(folder, 2 * vectors)
    np.testing.assert_array_equal(old.search(queries, 5).scores, before.scores)
    assert old.ids[49] == "sample-49"


def test_an_index_of_another_store_is_refused(folder: Path, build, vectors) -> None:
    build(folder, vectors)
    VectorIndex.open(folder, "plan-1")
    with pytest.raises(SearchIndexError, match=r"another store \(plan plan-1, wanted plan-2\)") as caught:
        VectorIndex.open(folder, "plan-2")
    assert f"run `forebear index --run {folder.parent.parent} --estimator retrac`" in str(caught.value)


def test_a_missing_index_says_how_to_build_it(folder: Path) -> None:
    with pytest.raises(SearchIndexError, match=r"index\.json does not exist; run `forebear index --run"):
        VectorIndex.open(folder)


@pytest.mark.parametrize("name", ["vectors.f16", "scales.f32", "ids.parquet"])
def test_missing_cut_and_flipped_files(folder: Path, build, vectors, name: str) -> None:
    build(folder, vectors).verify()
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    with pytest.raises(SearchIndexError, match=rf"{name}.*run `forebear index --run"):
        VectorIndex.open(folder).verify()
    path.write_bytes(whole[:-1])
    with pytest.raises(SearchIndexError, match=rf"{name} has {len(whole) - 1} bytes instead of {len(whole)}"):
        VectorIndex.open(folder)
    path.unlink()
    with pytest.raises(SearchIndexError, match=f"{name} is missing"):
        VectorIndex.open(folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [(pa.table({"x": [1]}), "cannot be read"), (pa.table({"sample_id": ["a"]}), "names 1 of 50 rows")],
)
def test_a_foreign_ids_file_is_refused(folder: Path, build, vectors, table: pa.Table, message: str) -> None:
    build(folder, vectors)
    pq.write_table(table, folder / "ids.parquet")
    values = json.loads((folder / "index.json").read_text())
    values["files"]["ids.parquet"]["bytes"] = (folder / "ids.parquet").stat().st_size
    (folder / "index.json").write_text(json.dumps(values))
    with pytest.raises(SearchIndexError, match=message):
        VectorIndex.open(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: values.update(format_version=9), "not an index of format version 5 but 9"),
        (lambda values: values.update(surprise=1), "surprise"),
        (lambda values: values.update(count=49), r"does not list vectors\.f16 with the size"),
        (lambda values: values["files"].pop("scales.f32"), r"does not list scales\.f32"),
        (lambda values: values.update(kind="rabitq"), r"does not list towards\.faiss"),
    ],
)
def test_a_damaged_description_is_refused(folder: Path, build, vectors, damage, message: str) -> None:
    build(folder, vectors)
    values = json.loads((folder / "index.json").read_text())
    damage(values)
    (folder / "index.json").write_text(json.dumps(values))
    with pytest.raises(SearchIndexError, match=message) as caught:
        VectorIndex.open(folder)
    assert "run `forebear index --run" in str(caught.value)


def _with(vectors: np.ndarray, value: float) -> np.ndarray:
    spoilt = vectors.copy()
    spoilt[30, 2] = value
    return spoilt


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (lambda v: [(0, v[:49])], "hold 49 vectors for 50 samples"),
        (lambda v: [(0, v[:20]), (25, v[25:])], "begins at row 25; expected row 20"),
        (lambda v: [(0, v), (50, v[:1])], "begins at row 50; expected row 50 of 50"),
        (lambda v: [(0, v[:, :11])], "expected row 0 of 50 rows of 12 numbers"),
        (lambda v: [(0, _with(v, np.nan))], "the vector of row 30 is not finite"),
        (lambda v: [(0, v[:10]), (10, _with(v, -np.inf)[10:])], "the vector of row 30 is not finite"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(folder: Path, metadata, vectors, blocks, message: str) -> None:
    ids = [str(row) for row in range(50)]
    with pytest.raises(SearchIndexError, match=message):
        build_index(folder, blocks(vectors), 12, ids, config=IndexConfig(), metadata=metadata)
    assert not any(folder.parent.iterdir())


@pytest.mark.parametrize("ids", [[], ["a", "b", "a"]])
def test_ids_must_be_there_and_differ(folder: Path, metadata, vectors, ids: list[str]) -> None:
    with pytest.raises(SearchIndexError, match="one id for each row"):
        build_index(folder, [(0, vectors[: len(ids)])], 12, ids, config=IndexConfig(), metadata=metadata)


def test_reading_maps_the_vectors(folder: Path, build, vectors) -> None:
    index = build(folder, vectors)
    index.scores(vectors[:1])
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert os.fspath(folder / "vectors.f16") in maps.read_text()


def test_an_exact_index_of_the_first_format_is_read(folder: Path, build, vectors, queries) -> None:
    before = build(folder, vectors).search(queries, 5)
    values = json.loads((folder / "index.json").read_text())
    values["format_version"] = 1
    del values["source"]
    (folder / "index.json").write_text(json.dumps(values))
    np.testing.assert_array_equal(VectorIndex.open(folder, "plan-1").search(queries, 5).rows, before.rows)
