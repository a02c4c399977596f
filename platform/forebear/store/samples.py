"""Which samples a store, or a segment of it, was made from: their ids in the order of its rows, and what was known of
each, so that a change of the training images can be named sample by sample."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.data import TrainingSet, arranged, rows_by_id
from forebear.errors import StoreError
from forebear.files import fingerprint, whole_file
from forebear.store.shard import run_folder, some_of

SAMPLES_FILE = "samples.parquet"
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("details", pa.binary(16), nullable=False),
    ]
)


@dataclass(frozen=True)
class SampleRecords:
    """The samples of N rows."""

    table: pa.Table
    """`sample_id`; `locator`, where the source had it; `details`, a hash of id, caption and label."""

    @classmethod
    def of_ids(cls, ids: Sequence[str]) -> "SampleRecords":
        """When nothing else was recorded: stores from before there were records."""
        blanks = pa.array([""] * len(ids), pa.string())
        return cls(pa.table([pa.array(ids, pa.string()), blanks, pa.nulls(len(ids), pa.binary(16))], schema=SCHEMA))

    @property
    def ids(self) -> pa.ChunkedArray:
        return self.table["sample_id"]

    def named(self, rows: NDArray[np.int64]) -> list[str]:
        """Ids and places of some rows, for messages."""
        found = self.table.take(pa.array(rows))
        return [
            f"{name} ({place})" if place else name
            for name, place in zip(found["sample_id"].to_pylist(), found["locator"].to_pylist(), strict=True)
        ]


def write_samples(folder: Path, training_set: TrainingSet) -> None:
    """Record the samples of a training set, whose rows are those of the store or segment in `folder`.

    Nothing is written when the file is there and says the same.
    """
    known = read_samples(folder)
    if known is not None and _same(known, training_set):
        return
    with whole_file(folder / SAMPLES_FILE) as part, pq.ParquetWriter(part, SCHEMA, compression="none") as writer:
        for batch in training_set.samples.batches(["id", "locator", "caption", "label"]):
            details = pa.array(_details(batch), pa.binary(16))
            arrays = [batch.column("id"), batch.column("locator"), details]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))


def read_samples(folder: Path) -> SampleRecords | None:
    """The samples of a store or segment; None when they were not recorded or the file is damaged."""
    try:
        table = pq.read_table(folder / SAMPLES_FILE, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    return SampleRecords(table) if table.schema == SCHEMA else None


def take_samples(
    folder: Path, training_set: TrainingSet, records: SampleRecords, dataset: str, removed: Collection[str]
) -> TrainingSet:
    """The training set of the rows in `folder`, in their order, from what the source holds now.

    `dataset` is its fingerprint when it was embedded. Samples among the `removed` may be gone. Raises StoreError that
    names those which are gone, or whose caption or label changed.
    """
    if training_set.fingerprint == dataset:
        return training_set
    run = run_folder(folder)
    found = rows_by_id(training_set, records.ids)
    gone = records.table.take(pa.array(np.flatnonzero(found < 0)))["sample_id"].to_pylist()
    if lost := [name for name in gone if name not in removed]:
        raise StoreError(
            f"{len(lost)} training images that {folder} was made from are not in the source any more: "
            f"{some_of(_places(records, lost))}; restore them, or take them out of all answers with "
            f"`forebear embed --run {run} --grow`"
        )
    whole = arranged(training_set, records.ids, records.table["locator"].to_pylist())
    if not gone and whole.fingerprint == dataset:
        return whole
    if changed := changed_samples(records, whole, found >= 0):
        raise StoreError(
            f"the caption or the label of {len(changed)} training images changed since they were embedded: "
            f"{some_of(changed)}; put them back, or embed everything anew with `forebear embed --run {run} --restart`"
        )
    return whole.with_samples(whole.samples.known_as(dataset))


def changed_samples(records: SampleRecords, training_set: TrainingSet, there: NDArray[np.bool_]) -> list[str]:
    """Names of the samples, in equal order on both sides, whose caption or label is not that of the record.

    `there` bool[N]: which of them the source has. A record that was not kept agrees with everything.
    """
    now = (digest for batch in training_set.samples.batches(["id", "caption", "label"]) for digest in _details(batch))
    then = records.table["details"].to_pylist()
    known = [row for row, (old, new) in enumerate(zip(then, now, strict=True)) if old not in (None, new) and there[row]]
    return records.named(np.array(known, np.int64)) if known else []


def _same(records: SampleRecords, training_set: TrainingSet) -> bool:
    """Whether a record is the one that would be written."""
    if records.table.num_rows != len(training_set):
        return False
    digests = (one for batch in training_set.samples.batches(["id", "caption", "label"]) for one in _details(batch))
    return all(old == new for old, new in zip(records.table["details"].to_pylist(), digests, strict=True))


def _places(records: SampleRecords, ids: list[str]) -> list[str]:
    rows = {name: row for row, name in enumerate(records.ids.to_pylist())}
    return records.named(np.array([rows[name] for name in ids], np.int64))


def _details(batch: pa.RecordBatch) -> Iterator[bytes]:
    """16 bytes for each sample that change with its id, caption or label."""
    columns = [batch.column(name).to_pylist() for name in ("id", "caption", "label")]
    return (bytes.fromhex(fingerprint(list(line))) for line in zip(*columns, strict=True))
