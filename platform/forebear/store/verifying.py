"""Reading a whole store again: which of its files are missing, damaged or foreign."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from forebear.errors import StoreError
from forebear.files import fingerprint, sha256_of_file
from forebear.store.manifest import read_manifest
from forebear.store.plan import StorePlan
from forebear.store.reader import opened_shard, shard_problem
from forebear.store.samples import SAMPLES_FILE, read_samples
from forebear.store.segments import listed_segments, segment_folders
from forebear.store.shard import ShardRecord, shard_path

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Checked:
    """What was found of one shard, or, without a shard, of what belongs to a store or segment as a whole."""

    folder: Path
    checkpoint: str = ""
    shard: int = -1
    problem: str = ""
    """Empty when all is well."""


def store_folders(folder: Path) -> list[Path]:
    """The folders of a store's segments, first to last, as far as the list of them can be read."""
    try:
        return [folder, *(folder / one.name for one in listed_segments(folder))]
    except StoreError:
        return [folder, *segment_folders(folder)]


def shards_in(folder: Path) -> int:
    """How many shards `check_store` will look at, as far as manifests can be read."""
    count = 0
    for part in store_folders(folder):
        try:
            plan = read_manifest(part).plan
        except StoreError:
            continue
        count += plan.shards_per_checkpoint * len(plan.checkpoints)
    return count


def check_store(folder: Path) -> Iterator[Checked]:
    """Look at every file of a store, one after another: whole-file and page checksums, schema, ids, finite numbers."""
    try:
        listed_segments(folder)
    except StoreError as damaged:
        yield Checked(folder, problem=str(damaged))
    for part in store_folders(folder):
        yield from _check_segment(part)


def _check_segment(folder: Path) -> Iterator[Checked]:
    try:
        manifest = read_manifest(folder)
    except StoreError as damaged:
        yield Checked(folder, problem=str(damaged))
        return
    for leftover in (*folder.glob("*.part"), *folder.glob("checkpoint=*/*.part")):
        yield Checked(folder, problem=f"{leftover} is a half-written file that a killed process left")
    if not manifest.shards:
        yield Checked(folder, problem=f"{folder} is not finished")
        return
    plan = manifest.plan
    records = {(record.checkpoint, record.shard): record for record in manifest.shards}
    for checkpoint, shard in plan.shards():
        record = records.get((checkpoint, shard))
        problem = "the manifest does not list it" if record is None else check_shard(folder, plan, record)
        yield Checked(folder, checkpoint, shard, problem)
    yield Checked(folder, problem=_samples_problem(folder, plan, manifest.shards))


def check_shard(folder: Path, plan: StorePlan, record: ShardRecord) -> str:
    """What is wrong with a shard; empty when nothing is."""
    path = shard_path(folder, record.checkpoint, record.shard)
    problem = shard_problem(folder, record)
    if problem:
        return problem
    try:
        if sha256_of_file(path) != record.sha256:
            return f"{path} does not match its checksum"
        return _content_problem(folder, plan, record)
    except StoreError as damaged:
        return str(damaged)
    except OSError as refused:
        return f"{path} cannot be read ({refused.strerror or refused})"


def _content_problem(folder: Path, plan: StorePlan, record: ShardRecord) -> str:
    path = shard_path(folder, record.checkpoint, record.shard)
    ids: list[str] = []
    with opened_shard(folder, plan, record) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, use_threads=False):
            ids += batch.column("sample_id").to_pylist()
            for name in plan.columns:
                halves = np.frombuffer(b"".join(batch.column(name).to_pylist()), "<f2")
                if not np.isfinite(halves).all() or not np.isfinite(batch.column(f"{name}_scale").to_numpy()).all():
                    return f"{path} holds numbers in {name} that are not finite"
            for name in ("norms", "losses"):
                if not np.isfinite(pa.array(batch.column(name).flatten()).to_numpy()).all():
                    return f"{path} holds {name} that are not finite"
    return "" if fingerprint(ids) == record.samples else f"{path} holds other samples than its record says"


def _samples_problem(folder: Path, plan: StorePlan, shards: tuple[ShardRecord, ...]) -> str:
    """Of the record of samples, which older stores do not have."""
    path = folder / SAMPLES_FILE
    if not path.exists():
        return ""
    records = read_samples(folder)
    if records is None or records.table.num_rows != plan.sample_count:
        return f"{path} is damaged"
    ids = records.ids.to_pylist()
    for record in shards[: plan.shards_per_checkpoint]:
        first = record.first_row - plan.first_row
        if fingerprint(ids[first : first + record.rows]) != record.samples:
            return f"{path} names other samples than the shards"
    return ""
