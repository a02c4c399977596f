"""Reading a store, whole and damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forebear.config import plain
from forebear.errors import StoreError
from forebear.files import write_json
from forebear.store import Store, StorePlan, prepare_store, read_manifest, shard, shard_path, write_shard
from forebear.store.reader import _decoded

STEP = "step-00000020"


def test_everything_written_is_read_back_in_order(store_folder: Path, plan: StorePlan, rows_of) -> None:
    store = Store.open(store_folder, plan)
    store.verify()
    pieces = [rows_of(plan, STEP, number) for number in range(3)]
    assert len(store) == 10
    assert list(store.ids()) == [f"sample-{row}" for row in range(10)]
    np.testing.assert_array_equal(store.norms(STEP), np.concatenate([piece.norms for piece in pieces]))
    np.testing.assert_array_equal(store.losses(STEP), np.concatenate([piece.losses for piece in pieces]))
    np.testing.assert_array_equal(store.timesteps(STEP), np.concatenate([piece.timesteps for piece in pieces]))
    assert store.timesteps(STEP).dtype == np.int32
    for column in plan.columns:
        written = np.concatenate([piece.vectors[column] for piece in pieces])
        read = store.vectors(STEP, column)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, written, rtol=2**-10, atol=np.abs(written).max() * 2**-24)


def test_checkpoints_and_columns_are_kept_apart(store_folder: Path, plan: StorePlan) -> None:
    store = Store.open(store_folder)
    read = [store.vectors(name, column) for name in plan.checkpoint_names for column in plan.columns]
    for first in range(len(read)):
        for second in range(first):
            assert not np.array_equal(read[first], read[second])


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 5), slice(4, 8), slice(2, None), slice(None, -1), slice(9, 99)])
def test_a_slice_reads_those_rows(store_folder: Path, rows: slice) -> None:
    store = Store.open(store_folder)
    np.testing.assert_array_equal(store.vectors(STEP, "mean", rows), store.vectors(STEP, "mean")[rows])
    assert store.to_list_view(STEP, rows)["row"].to_pylist() == list(range(10))[rows]


@pytest.mark.parametrize("rows", [slice(0, 10, 2), slice(5, 5), slice(20, 30), slice(None, None, -1)])
def test_only_consecutive_rows_can_be_asked_for(store_folder: Path, rows: slice) -> None:
    with pytest.raises(StoreError, match="slice of consecutive rows within 0 to 10"):
        Store.open(store_folder).vectors(STEP, "mean", rows)


def test_blocks_are_the_vectors_in_order(store_folder: Path) -> None:
    store = Store.open(store_folder)
    blocks = list(store.blocks(STEP, "mean"))
    assert [row0 for row0, _ in blocks] == [0, 4, 8]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), store.vectors(STEP, "mean"))


def test_shards_of_several_row_groups(tmp_path: Path, changed, fill_store, monkeypatch) -> None:
    plan = changed(shard_rows=7)
    fill_store(tmp_path / "one", plan)
    monkeypatch.setattr(shard, "ROW_GROUP_ROWS", 3)
    fill_store(tmp_path / "many", plan)
    one, many = Store.open(tmp_path / "one"), Store.open(tmp_path / "many")
    assert [row0 for row0, _ in many.blocks(STEP, "mean")] == [0, 3, 6, 7]
    np.testing.assert_array_equal(many.vectors(STEP, "mean"), one.vectors(STEP, "mean"))
    np.testing.assert_array_equal(many.vectors(STEP, "mean", slice(2, 8)), one.vectors(STEP, "mean")[2:8])
    np.testing.assert_array_equal(many.norms(STEP), one.norms(STEP))
    assert many.ids() == one.ids()


def test_a_chunk_that_is_a_window_into_its_buffer_is_read_from_its_offset(store_folder: Path) -> None:
    table = pq.read_table(shard_path(store_folder, STEP, 0))
    whole = _decoded(table, "mean", 8)
    window = table.slice(1, 2)
    assert window["mean"].chunk(0).offset == 1
    np.testing.assert_array_equal(_decoded(window, "mean", 8), whole[1:3])
    split = pa.concat_tables([table.slice(2), table.slice(0, 1)])
    np.testing.assert_array_equal(_decoded(split, "mean", 8), whole[[2, 3, 0]])


def test_the_list_view_suits_pandas(store_folder: Path, plan: StorePlan) -> None:
    store = Store.open(store_folder)
    view = store.to_list_view(STEP)
    assert view.schema.field("mean").type == pa.list_(pa.float32(), plan.dim)
    assert view["sample_id"].to_pylist() == list(store.ids())
    for column in plan.columns:
        np.testing.assert_array_equal(np.array(view[column].to_pylist(), np.float32), store.vectors(STEP, column))
    np.testing.assert_array_equal(np.array(view["norms"].to_pylist(), np.float32), store.norms(STEP))


def test_names_that_do_not_exist_are_answered_with_those_that_do(store_folder: Path) -> None:
    store = Store.open(store_folder)
    with pytest.raises(StoreError, match="no checkpoint 'last'; it has step-00000010, step-00000020"):
        store.norms("last")
    with pytest.raises(StoreError, match="no vector column 'norms'; it has mean, unit_mean, unit_matched"):
        store.vectors(STEP, "norms")


def test_an_unfinished_store_is_refused(tmp_path: Path, plan: StorePlan, weights, rows_of) -> None:
    folder = tmp_path / "store"
    prepare_store(folder, plan, weights)
    write_shard(folder, plan, STEP, 0, rows_of(plan, STEP, 0))
    with pytest.raises(StoreError, match="not finished; run `forebear embed --run"):
        Store.open(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "bytes instead of"),
        (lambda path: path.with_suffix(".json").unlink(), "shard-00001.json does not exist"),
        (lambda path: path.with_suffix(".json").write_text("{}"), "shard-00001.json"),
    ],
)
def test_opening_finds_what_is_missing_or_cut(store_folder: Path, damage, message) -> None:
    damage(shard_path(store_folder, STEP, 1))
    with pytest.raises(StoreError, match=message) as caught:
        Store.open(store_folder)
    assert f"run `forebear embed --run {store_folder.parent}`" in str(caught.value)


def test_a_sidecar_of_other_bytes_is_refused(store_folder: Path) -> None:
    sidecar = shard_path(store_folder, STEP, 1).with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(StoreError, match="does not agree with the manifest"):
        Store.open(store_folder)


def _another_checkpoints(path: Path) -> None:
    path.write_bytes(shard_path(path.parent.parent, "step-00000010", 1).read_bytes())


def _four_other_rows(path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0, 4.0]}), path)


def _one_row_short(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize("overwrite", [_another_checkpoints, _four_other_rows, _one_row_short])
def test_a_foreign_parquet_file_is_refused(store_folder: Path, overwrite) -> None:
    """Even one of the recorded size, as soon as it is read: its schema, metadata or row count tells."""
    path = shard_path(store_folder, STEP, 1)
    size = path.stat().st_size
    overwrite(path)
    if path.stat().st_size != size:
        with pytest.raises(StoreError, match=f"bytes instead of {size}"):
            Store.open(store_folder)
    manifest = read_manifest(store_folder)
    records = [
        replace(record, bytes=path.stat().st_size) if (record.checkpoint, record.shard) == (STEP, 1) else record
        for record in manifest.shards
    ]
    write_json(store_folder / "manifest.json", plain(replace(manifest, shards=tuple(records))))
    write_json(path.with_suffix(".json"), plain(records[4]))
    store = Store.open(store_folder)
    with pytest.raises(StoreError, match="is not this store's shard of 4 rows"):
        store.vectors(STEP, "mean")
    assert store.vectors(STEP, "mean", slice(0, 4)).shape == (4, 8)


def test_zeros_in_place_of_a_shard_are_found_when_it_is_read(store_folder: Path) -> None:
    path = shard_path(store_folder, STEP, 1)
    path.write_bytes(b"\0" * path.stat().st_size)
    store = Store.open(store_folder)
    with pytest.raises(StoreError, match=r"shard-00001\.parquet cannot be read \(.*run `forebear embed --run"):
        store.norms(STEP)


def test_verify_finds_every_flipped_bit_and_the_remedy_works(store_folder: Path, plan: StorePlan, rows_of) -> None:
    path = shard_path(store_folder, STEP, 1)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 16):
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(bytes(data))
        with pytest.raises(StoreError, match=r"shard-00001\.parquet.*run `forebear embed --run"):
            Store.open(store_folder).verify()
    write_shard(store_folder, plan, STEP, 1, rows_of(plan, STEP, 1))
    Store.open(store_folder).verify()


def test_reading_finds_a_flipped_bit_in_the_vectors(store_folder: Path) -> None:
    store = Store.open(store_folder)
    path = shard_path(store_folder, STEP, 1)
    chunk = pq.read_table(path)["mean"].chunk(0)
    needle = chunk[0].as_py()
    data = bytearray(path.read_bytes())
    data[bytes(data).index(needle) + 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"shard-00001\.parquet cannot be read \(.*run `forebear embed --run"):
        store.vectors(STEP, "mean")
    assert store.vectors(STEP, "mean", slice(0, 4)).shape == (4, 8)
