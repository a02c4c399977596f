"""Shards: bytes that depend on the rows and the plan alone, and nothing written for bad rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from forebear.errors import StoreError
from forebear.files import fingerprint, sha256_of_file
from forebear.store import StorePlan, shard_done, shard_path, write_shard

STEP = "step-00000010"


def test_a_rerun_writes_the_same_bytes(tmp_path: Path, plan: StorePlan, fill_store) -> None:
    first, second = tmp_path / "a" / "store", tmp_path / "b" / "store"
    fill_store(first, plan)
    fill_store(second, plan)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 1 + 2 * 2 * 3  # the manifest, and a shard and a sidecar for 2 checkpoints x 3 shards
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_the_file_is_laid_out_as_decided(store_folder: Path, plan: StorePlan) -> None:
    path = store_folder / "checkpoint=step-00000010" / "shard-00000.parquet"
    schema, groups = pq.read_schema(path), pq.read_metadata(path).row_group(0)
    assert schema.names[:4] == ["sample_id", "row", "mean", "mean_scale"]
    assert str(schema.field("mean").type) == "fixed_size_binary[16]"
    assert schema.field("mean").metadata[b"dtype"] == b"float16"
    assert schema.field("mean").metadata[b"dim"] == b"8"
    assert schema.metadata[b"forebear.plan_hash"] == plan.hash.encode()
    for column in range(groups.num_columns):
        about = groups.column(column)
        assert about.compression == "UNCOMPRESSED"
        assert not about.has_dictionary_page
        assert about.is_stats_set == (about.path_in_schema in {"sample_id", "row"})


def test_the_sidecar_describes_the_shard(tmp_path: Path, plan: StorePlan, rows_of) -> None:
    rows = rows_of(plan, STEP, 2)
    record = write_shard(tmp_path, plan, STEP, 2, rows)
    path = shard_path(tmp_path, STEP, 2)
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "checkpoint": STEP,
        "shard": 2,
        "rows": 2,
        "first_row": 8,
        "last_row": 9,
        "samples": fingerprint(["sample-8", "sample-9"]),
        "bytes": path.stat().st_size,
        "sha256": sha256_of_file(path),
        "plan_hash": plan.hash,
        "min_norm": float(rows.norms.min()),
        "max_norm": float(rows.norms.max()),
        "all_finite": True,
    }
    assert record.sha256 == sha256_of_file(path)


@pytest.mark.parametrize("place", ["mean", "unit_matched", "norms", "losses"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, plan: StorePlan, rows_of, place: str, value: float
) -> None:
    rows = rows_of(plan, STEP, 1)
    array = rows.vectors[place] if place in rows.vectors else getattr(rows, place)
    array[[1, 3], 0] = value
    with pytest.raises(StoreError, match=r"sample-5, sample-7 at checkpoint step-00000010 are not finite"):
        write_shard(tmp_path, plan, STEP, 1, rows)
    assert not any(tmp_path.iterdir())


def test_a_long_list_of_bad_samples_is_cut(tmp_path: Path, changed, rows_of) -> None:
    plan = changed(shard_rows=10)
    rows = rows_of(plan, STEP, 0)
    rows.norms[:] = np.nan
    with pytest.raises(StoreError, match="sample-4 and 5 more"):
        write_shard(tmp_path, plan, STEP, 0, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {"rows": rows.rows[::-1].copy()}, "rows must be 4 to 7 in order"),
        (lambda rows: {"rows": rows.rows.astype(np.int32)}, r"rows is int32\[4\], the plan needs int64\[4\]"),
        (lambda rows: {"norms": rows.norms[:, :2]}, r"norms is float32\[4, 2\], the plan needs float32\[4, 3\]"),
        (lambda rows: {"sample_ids": ["a", "b", "c", "a"]}, "4 different sample ids"),
        (lambda rows: {"vectors": {"mean": rows.vectors["mean"]}}, "unit_mean is missing"),
        (lambda rows: {"vectors": {**rows.vectors, "extra": rows.vectors["mean"]}}, "no vector column extra"),
        (
            lambda rows: {"vectors": {**rows.vectors, "mean": rows.vectors["mean"].astype(np.float64)}},
            r"mean is float64\[4, 8\]",
        ),
    ],
)
def test_rows_that_are_not_the_plans_are_refused(tmp_path: Path, plan: StorePlan, rows_of, change, message) -> None:
    rows = rows_of(plan, STEP, 1)
    with pytest.raises(StoreError, match=message):
        write_shard(tmp_path, plan, STEP, 1, replace(rows, **change(rows)))
    assert not any(tmp_path.iterdir())


def test_a_shard_outside_the_plan_is_refused(tmp_path: Path, plan: StorePlan, rows_of) -> None:
    with pytest.raises(StoreError, match="shard 3 of checkpoint step-00000010 is not in the plan"):
        write_shard(tmp_path, plan, STEP, 3, rows_of(plan, STEP, 0))


def test_done_means_whole_and_of_this_plan(tmp_path: Path, plan: StorePlan, changed, rows_of) -> None:
    assert not shard_done(tmp_path, plan, STEP, 0)
    write_shard(tmp_path, plan, STEP, 0, rows_of(plan, STEP, 0))
    assert shard_done(tmp_path, plan, STEP, 0)
    assert not shard_done(tmp_path, plan, STEP, 1)
    assert not shard_done(tmp_path, changed(projection={"seed": 1}), STEP, 0)
    assert not shard_done(tmp_path, changed(shard_rows=5), STEP, 0)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink])
def test_a_damaged_shard_is_not_done(tmp_path: Path, plan: StorePlan, rows_of, damage) -> None:
    write_shard(tmp_path, plan, STEP, 0, rows_of(plan, STEP, 0))
    damage(shard_path(tmp_path, STEP, 0))
    assert not shard_done(tmp_path, plan, STEP, 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": 4}'])
def test_a_shard_without_a_readable_sidecar_is_not_done(tmp_path: Path, plan: StorePlan, rows_of, text: str) -> None:
    write_shard(tmp_path, plan, STEP, 0, rows_of(plan, STEP, 0))
    shard_path(tmp_path, STEP, 0).with_suffix(".json").write_text(text)
    assert not shard_done(tmp_path, plan, STEP, 0)


def test_size_alone_is_trusted_when_asked(tmp_path: Path, plan: StorePlan, rows_of) -> None:
    write_shard(tmp_path, plan, STEP, 0, rows_of(plan, STEP, 0))
    _flip(shard_path(tmp_path, STEP, 0))
    assert shard_done(tmp_path, plan, STEP, 0, rehash=False)
    _cut(shard_path(tmp_path, STEP, 0))
    assert not shard_done(tmp_path, plan, STEP, 0, rehash=False)
