"""Stores in segments, with samples taken out, and compacted: always the vectors of embedding all of it at once."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from forebear.data import Sample, TrainingSet
from forebear.errors import StoreError
from forebear.progress import Progress
from forebear.randomness import keyed_normal
from forebear.store import (
    EmbeddingRows,
    PlannedCheckpoint,
    Store,
    StorePlan,
    prepare_store,
    remove_samples,
    restore_samples,
    write_manifest,
    write_samples,
    write_shard,
)
from forebear.store.compacting import compact_store
from forebear.store.replacing import predecessor, successor
from forebear.store.segments import (
    ListedSegment,
    following,
    list_segments,
    listed_segments,
    next_segment,
    open_segments,
)
from forebear.store.verifying import check_store

STEP = "step-00000020"
PLAN = StorePlan(
    dataset="",
    sample_count=1,
    checkpoints=(PlannedCheckpoint("step-00000010", 10, "w10"), PlannedCheckpoint(STEP, 20, "w20")),
    measurement="loss",
    timestep_scheme="stratified",
    timesteps=(100, 500, 900),
    timesteps_per_sample=3,
    draws=1,
    projection={"kind": "sketch", "seed": 0},
    dim=8,
    shard_rows=4,
)


class NoPictures:
    def scan(self):
        return iter(())

    def picture(self, sample: Sample, size: int) -> Image.Image:
        raise AssertionError(sample.id)


def training_set(ids: Sequence[str]) -> TrainingSet:
    return TrainingSet(NoPictures(), [Sample(name, f"{name}.png", caption=f"a {name}") for name in ids])


def embed_ids(plan: StorePlan, checkpoint: str, shard: int, ids: Sequence[str]) -> EmbeddingRows:
    """Numbers that depend on checkpoint and id alone, as those of the gradient engine do."""
    rows = plan.shard_range(shard)
    own = [ids[row - plan.first_row] for row in rows]

    def draw(column: str, width: int) -> np.ndarray:
        return np.stack([keyed_normal((width,), column, checkpoint, name) for name in own])

    return EmbeddingRows(
        sample_ids=own,
        rows=np.arange(rows.start, rows.stop),
        vectors={name: draw(name, plan.dim) for name in plan.columns},
        norms=np.abs(draw("norms", plan.timesteps_per_sample)),
        losses=draw("losses", plan.timesteps_per_sample),
        timesteps=np.tile(np.array([100, 500, 900], np.int32), (len(rows), 1)),
    )


def fill(folder: Path, plan: StorePlan, ids: Sequence[str]) -> None:
    prepare_store(folder, plan, dict.fromkeys(plan.checkpoint_names, 1.0))
    write_samples(folder, training_set(ids))
    for checkpoint, shard in plan.shards():
        write_shard(folder, plan, checkpoint, shard, embed_ids(plan, checkpoint, shard, ids))
    write_manifest(folder)


def make(folder: Path, base: StorePlan, parts: Sequence[Sequence[str]]) -> Store:
    """A store whose first segment has the first part, and so on."""
    first = training_set(parts[0])
    fill(folder, replace(base, dataset=first.fingerprint, sample_count=len(first)), parts[0])
    for ids in parts[1:]:
        plan = following(open_segments(folder), training_set(ids).fingerprint, len(ids))
        part = next_segment(folder)
        fill(part, plan, ids)
        list_segments(folder, [*listed_segments(folder), ListedSegment(part.name, plan.hash, len(ids))])
    return Store.open(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def compacted(store: Store) -> Store:
    compact_store(store, training_set(store.ids()), Progress("compacting", 0, "rows"))
    return Store.open(store.folder)


NAMES = [f"s{number}" for number in range(11)]


@settings(max_examples=8)
@given(
    order=st.permutations(NAMES),
    cuts=st.sets(st.integers(1, len(NAMES) - 1), max_size=3),
    removed=st.sets(st.sampled_from(NAMES), max_size=len(NAMES) - 1),
)
def test_growing_in_any_split_and_compacting_is_embedding_at_once(
    order: list[str], cuts: set[int], removed: set[str]
) -> None:
    ends = [0, *sorted(cuts), len(order)]
    parts = [order[first:last] for first, last in pairwise(ends)]
    kept = [name for name in order if name not in removed]
    with TemporaryDirectory() as scratch:
        grown = make(Path(scratch) / "grown" / "store", PLAN, parts)
        remove_samples(grown.folder, removed, "test")
        grown = Store.open(grown.folder)
        at_once = make(Path(scratch) / "once" / "store", PLAN, [kept])
        _same_rows(grown, at_once)
        found = compacted(grown)
        _same_rows(found, at_once)
        assert found.plan == at_once.plan
        assert contents(found.folder) == contents(at_once.folder)  # byte for byte
        assert not [one.problem for one in check_store(found.folder) if one.problem]
        assert not predecessor(found.folder).exists()


def _same_rows(one: Store, other: Store) -> None:
    assert one.ids() == other.ids()
    assert len(one) == len(other)
    for checkpoint in one.plan.checkpoint_names:
        for column in one.plan.columns:
            np.testing.assert_array_equal(one.vectors(checkpoint, column), other.vectors(checkpoint, column))
            starts = [first for first, _ in one.blocks(checkpoint, column)]
            assert starts == [first for first, _ in one.blocks(one.plan.checkpoint_names[0], column)]
        np.testing.assert_array_equal(one.norms(checkpoint), other.norms(checkpoint))
        np.testing.assert_array_equal(one.losses(checkpoint), other.losses(checkpoint))


@pytest.fixture
def grown(tmp_path: Path, plan: StorePlan) -> Store:
    return make(tmp_path / "run" / "store", plan, [NAMES[:5], NAMES[5:8], NAMES[8:]])


def test_growth_touches_nothing_that_was_there(tmp_path: Path, plan: StorePlan, grown: Store) -> None:
    alone = make(tmp_path / "alone" / "store", plan, [NAMES[:5]])
    for name, content in contents(alone.folder).items():
        assert (grown.folder / name).read_bytes() == content
    assert alone.plan == grown.segments[0].plan
    assert alone.plan.hash != grown.plan.hash


def test_a_slice_crosses_segments_and_removed_rows(grown: Store) -> None:
    remove_samples(grown.folder, ["s4", "s6"], "test")
    store = Store.open(grown.folder)
    np.testing.assert_array_equal(store.vectors(STEP, "mean", slice(3, 7)), grown.vectors(STEP, "mean")[[3, 5, 7, 8]])
    assert store.removed == 2
    assert store.whole.ids() == grown.ids()


def test_restored_samples_are_back(grown: Store) -> None:
    remove_samples(grown.folder, ["s4", "unknown"], "test")
    assert len(Store.open(grown.folder)) == 10
    assert restore_samples(grown.folder, ["s4", "s5"]) == ("s4",)
    assert len(Store.open(grown.folder)) == 11
    assert restore_samples(grown.folder, ["unknown"]) == ("unknown",)


def test_a_damaged_list_of_removed_samples_answers_nothing(grown: Store) -> None:
    remove_samples(grown.folder, ["s4"], "test")
    (grown.folder / "removed.json").write_text("{")
    with pytest.raises(StoreError, match=r"removed\.json is not valid JSON; restore the file"):
        Store.open(grown.folder)


def test_restart_keeps_the_list_of_removed_samples(grown: Store, plan: StorePlan) -> None:
    remove_samples(grown.folder, ["s4"], "test")
    prepare_store(grown.folder, plan, dict.fromkeys(plan.checkpoint_names, 1.0), restart=True)
    assert sorted(path.name for path in grown.folder.iterdir()) == ["manifest.json", "removed.json"]


def test_a_missing_segment_is_named(grown: Store) -> None:
    os.rename(grown.folder / "segment-0001", grown.folder / "elsewhere")  # noqa: PTH104
    with pytest.raises(StoreError, match=r"segment-0001, 3 images .* is missing; restore it"):
        Store.open(grown.folder)


def test_a_segment_of_another_plan_is_refused(grown: Store, tmp_path: Path, plan: StorePlan) -> None:
    other = make(tmp_path / "other" / "store", replace(plan, settings={"noise_seed": 9}), [NAMES[:5], NAMES[5:8]])
    part = grown.folder / "segment-0001"
    os.rename(part, tmp_path / "away")  # noqa: PTH104
    os.rename(other.folder / "segment-0001", part)  # noqa: PTH104
    with pytest.raises(StoreError, match=r"does not continue .*settings\.noise_seed: 0 -> 9"):
        Store.open(grown.folder)


def test_a_killed_compaction_goes_on(grown: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_samples(grown.folder, ["s1"], "test")
    store = Store.open(grown.folder)
    before = contents(store.folder)
    written: list[int] = []

    def killed(*arguments: object) -> None:
        written.append(1)
        if len(written) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    from forebear.store import compacting

    real = compacting._write
    monkeypatch.setattr(compacting, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        compacted(store)
    assert contents(store.folder) == before
    assert len(list(successor(store.folder).rglob("shard-*.json"))) == 2
    monkeypatch.setattr(compacting, "_write", lambda *arguments: (written.append(1), real(*arguments)))
    del written[:]
    found = compacted(store)
    assert len(written) == 4  # 3 shards at 2 checkpoints, two of which were there
    assert found.ids() == store.ids()


def test_killed_between_the_two_renames_the_old_store_answers(grown: Store) -> None:
    ids = grown.ids()
    grown.folder.rename(predecessor(grown.folder))
    assert Store.open(grown.folder).ids() == ids
    prepare_store(grown.folder, grown.segments[0].plan, dict.fromkeys(grown.plan.checkpoint_names, 1.0))
    assert Store.open(grown.folder).ids() == ids
    assert not predecessor(grown.folder).exists()


def test_a_damaged_shard_stops_compaction_and_nothing_is_lost(grown: Store) -> None:
    path = next(grown.folder.glob("segment-0001/checkpoint=*/*.parquet"))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(bytes(data))
    before = contents(grown.folder)
    remove_samples(grown.folder, ["s1"], "test")
    with pytest.raises(StoreError, match=r"cannot be read|is not this store's shard"):
        compacted(Store.open(grown.folder))
    assert contents(grown.folder) == before
