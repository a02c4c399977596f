"""Compaction: the segments of a store become one, and samples that were removed are dropped from it.

The new store is written beside the old one, STORE.compacting, from the encoded numbers as they are: value for value
those of a store that was embedded without the removed samples. The old one stays until the new one is whole. Killed at
any moment, the same call goes on.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from forebear.data import TrainingSet
from forebear.errors import StoreError
from forebear.progress import Progress
from forebear.store.manifest import Manifest, prepare_store, read_manifest, write_manifest
from forebear.store.plan import StorePlan
from forebear.store.reader import Store
from forebear.store.removed import REMOVED_FILE, alone
from forebear.store.replacing import replace_store, settle, successor
from forebear.store.samples import write_samples
from forebear.store.shard import shard_done, shard_schema, write_table


def compacted_plan(store: Store, live: TrainingSet) -> StorePlan:
    """The plan of the store's samples that were not removed, `live`, in one segment."""
    if len(live) != len(store):
        raise StoreError(f"{len(live)} images are given for {len(store)} rows; open both from the same run")
    return replace(store.segments[0].plan, dataset=live.fingerprint, sample_count=len(live), first_row=0)


def compact_store(store: Store, live: TrainingSet, bar: Progress) -> Manifest:
    """Put a store of one segment, without the removed samples, in the place of `store`; `bar` counts its rows.

    `live` are its samples that were not removed, in order. Raises StoreError when a shard is damaged, when there is no
    room for the second copy, or when the folder cannot be written.
    """
    plan, folder = compacted_plan(store, live), store.folder
    settle(folder)
    target = successor(folder)
    try:
        _check_room(store, target)
        prepare_store(target, plan, store.manifest.weights, restart=_other(target, plan))
        write_samples(target, live)
        for checkpoint, shard in plan.shards():
            rows = plan.shard_range(shard)
            if shard_done(target, plan, checkpoint, shard):
                bar.found(len(rows))
                continue
            _write(store, target, plan, checkpoint, shard)
            bar.advance(len(rows), f"shard {shard + 1:,}/{plan.shards_per_checkpoint:,}, {checkpoint}")
        done = write_manifest(target)
        with alone(folder):  # a sample that is removed meanwhile stays removed
            if (folder / REMOVED_FILE).exists():
                shutil.copy2(folder / REMOVED_FILE, target / REMOVED_FILE)
            replace_store(folder)
    except OSError as refused:
        raise StoreError(
            f"{target} cannot be written ({refused.strerror or refused}); the store is as it was. Mend that and run "
            "the same command, which goes on where it stopped"
        ) from None
    return done


def _write(store: Store, target: Path, plan: StorePlan, checkpoint: str, shard: int) -> None:
    """Copy the encoded rows of one shard; only their row numbers and what the schema says are new."""
    rows = plan.shard_range(shard)
    tables = [table for _, table in store.tables(checkpoint, slice(rows.start, rows.stop))]
    table = pa.concat_tables(tables)
    schema = shard_schema(plan, checkpoint, shard)
    numbers = pa.chunked_array([pa.array(np.arange(rows.start, rows.stop, dtype=np.int64))])
    columns = [numbers if name == "row" else table[name] for name in schema.names]
    fresh = pa.table(columns, schema=schema).combine_chunks()
    norms = fresh["norms"].combine_chunks().flatten().to_numpy()
    write_table(target, plan, checkpoint, shard, fresh, (float(norms.min()), float(norms.max())))


def _other(target: Path, plan: StorePlan) -> bool:
    """Whether what a killed compaction left is of other rows: something was removed, restored or added since."""
    if not target.exists():
        return False
    try:
        return read_manifest(target).plan != plan
    except StoreError:
        return True


def _check_room(store: Store, target: Path) -> None:
    needed = sum(record.bytes for record in store.manifest.shards) * len(store) // max(1, store.plan.sample_count)
    written = sum(path.stat().st_size for path in target.glob("checkpoint=*/*")) if target.exists() else 0
    free = shutil.disk_usage(store.folder).free
    if needed - written > free:
        raise StoreError(
            f"compacting {store.folder} needs {(needed - written) / 1e9:,.2f} GB beside it until the new store is "
            f"whole, {free / 1e9:,.2f} GB are free; make room, the store is as it was"
        )
