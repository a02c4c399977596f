"""Reading a store: checked when opened, memory mapped when read."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.errors import StoreError
from forebear.files import fingerprint, sha256_of_file
from forebear.store.half import HALF, from_half
from forebear.store.manifest import Manifest
from forebear.store.plan import StorePlan
from forebear.store.removed import read_removed
from forebear.store.replacing import present
from forebear.store.samples import SampleRecords, read_samples
from forebear.store.segments import Segment, joint_manifest, open_segments
from forebear.store.shard import ShardRecord, rebuild, shard_path, shard_schema, some_of


@dataclass(frozen=True)
class Store:
    """Embeddings of samples at every checkpoint of a plan, in the order in which they were added.

    Samples that were removed from the store are left out by every method but `whole`'s: with N samples in the plan and
    R of them removed, rows here are those of the N - R others. Every method that reads rows raises StoreError when a
    shard turns out to be damaged.
    """

    folder: Path
    segments: tuple[Segment, ...]
    left_out: frozenset[str] = frozenset()
    """Ids that are not to be read; those of other samples too."""

    @classmethod
    def open(cls, folder: Path, plan: StorePlan | None = None) -> "Store":
        """Open a finished store: checks manifests, the plan when one is wanted, and each shard's presence and size.

        A shard's schema and page checksums are compared when rows are read, checksums of whole files by `verify`.
        Raises StoreError.
        """
        folder = present(folder)
        segments = open_segments(folder)
        if plan is not None:
            joint_manifest(segments).check_plan(plan, folder)
        for segment in segments:
            _check_shards(segment)
        return cls(folder, segments, frozenset(read_removed(folder)))

    @cached_property
    def manifest(self) -> Manifest:
        """Of all segments together."""
        return joint_manifest(self.segments)

    @property
    def plan(self) -> StorePlan:
        """Of all segments together; it counts removed samples too."""
        return self.manifest.plan

    @property
    def whole(self) -> "Store":
        """The same store with the removed samples."""
        return self.without(frozenset())

    def without(self, ids: frozenset[str]) -> "Store":
        """The same store with other samples left out."""
        if ids == self.left_out:
            return self
        other = replace(self, left_out=ids)
        if "all_ids" in self.__dict__:
            other.__dict__["all_ids"] = self.all_ids  # as cached_property keeps it: they are the same
        return other

    def __len__(self) -> int:
        return self.plan.sample_count if self.kept is None else len(self.kept)

    @cached_property
    def kept(self) -> NDArray[np.int64] | None:
        """int64[N - R]: the whole store's rows of the samples that are not left out; None when all are in."""
        if not self.left_out:
            return None
        keep = np.fromiter((name not in self.left_out for name in self.all_ids), np.bool_, self.plan.sample_count)
        return None if keep.all() else np.flatnonzero(keep).astype(np.int64)

    @property
    def removed(self) -> int:
        """R: how many of the store's samples are left out."""
        return self.plan.sample_count - len(self)

    def verify(self) -> None:
        """Hash every shard again; raises StoreError that names the damaged ones."""
        damaged = [
            str(path)
            for segment in self.segments
            for record in segment.manifest.shards
            if sha256_of_file(path := shard_path(segment.folder, record.checkpoint, record.shard)) != record.sha256
        ]
        if damaged:
            raise StoreError(f"{some_of(damaged)}: the file does not match its checksum; {rebuild(self.folder)}")

    def vectors(self, checkpoint: str, column: str, rows: slice | None = None) -> NDArray[np.float32]:
        """float32[N, k]: one vector column of a checkpoint, or only the consecutive rows of a slice."""
        wanted = self._wanted(rows)
        vectors = np.empty((len(wanted), self.plan.dim), np.float32)
        for row0, block in self._vector_blocks(checkpoint, column, wanted):
            vectors[row0 - wanted.start : row0 - wanted.start + len(block)] = block
        return vectors

    def blocks(
        self, checkpoint: str, column: str, rows: slice | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32[B, k]) in order, at most a row group at a time; of all rows, or of a slice's alone.

        Blocks begin at the same rows for every checkpoint and column, so that several can be walked side by side.
        """
        return self._vector_blocks(checkpoint, column, self._wanted(rows))

    def ids(self) -> tuple[str, ...]:
        """The sample id of every row."""
        return self.all_ids if self.kept is None else tuple(self.all_ids[row] for row in self.kept.tolist())

    @cached_property
    def all_ids(self) -> tuple[str, ...]:
        """The sample ids of the whole store, removed ones too."""
        return tuple(name for segment in self.segments for name in _ids_of(segment))

    def records(self) -> SampleRecords:
        """What was recorded of the samples of the whole store, or their ids alone where nothing was."""
        parts = [
            read_samples(segment.folder) or SampleRecords.of_ids(self.all_ids[segment.rows.start : segment.rows.stop])
            for segment in self.segments
        ]
        return SampleRecords(pa.concat_tables([part.table for part in parts]))

    def norms(self, checkpoint: str) -> NDArray[np.float32]:
        """float32[N, T]: L2 norms of the full gradients, before projection."""
        return self._per_timestep(checkpoint, "norms", np.float32)

    def losses(self, checkpoint: str) -> NDArray[np.float32]:
        """float32[N, T]."""
        return self._per_timestep(checkpoint, "losses", np.float32)

    def timesteps(self, checkpoint: str) -> NDArray[np.int32]:
        """int32[N, T]."""
        return self._per_timestep(checkpoint, "timesteps", np.int32)

    def tables(self, checkpoint: str, rows: slice | None = None) -> Iterator[tuple[int, pa.Table]]:
        """(first row, rows as they are stored) in order, at most a row group at a time."""
        return self._tables(checkpoint, None, self._wanted(rows))

    def to_list_view(self, checkpoint: str, rows: slice | None = None) -> pa.Table:
        """The rows as pandas, DuckDB and Polars understand them: vectors are lists of float32, already scaled."""
        dim = self.plan.dim
        pieces = []
        for _, table in self._tables(checkpoint, None, self._wanted(rows)):
            columns: dict[str, Any] = {"sample_id": table["sample_id"], "row": table["row"]}
            for name in self.plan.columns:
                flat = pa.array(_decoded(table, name, dim).reshape(-1))
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, dim)
            columns |= {name: table[name] for name in ("norms", "losses", "timesteps")}
            pieces.append(pa.table(columns))
        return pa.concat_tables(pieces)

    def _wanted(self, rows: slice | None) -> range:
        wanted = range(len(self))[rows or slice(None)]
        if wanted.step != 1 or not wanted:
            raise StoreError(f"rows must be a slice of consecutive rows within 0 to {len(self)}; got {rows}")
        return wanted

    def _per_timestep(self, checkpoint: str, column: str, kind: type[Any]) -> NDArray[Any]:
        values = np.empty((len(self), self.plan.timesteps_per_sample), kind)
        for row0, table in self._tables(checkpoint, [column], range(len(self))):
            flat = table[column].combine_chunks().flatten()  # flatten minds the chunk's offset
            values[row0 : row0 + len(table)] = flat.to_numpy().reshape(len(table), -1)
        return values

    def _vector_blocks(self, checkpoint: str, column: str, wanted: range) -> Iterator[tuple[int, NDArray[np.float32]]]:
        if column not in self.plan.columns:
            raise StoreError(f"the store has no vector column {column!r}; it has {', '.join(self.plan.columns)}")
        for row0, table in self._tables(checkpoint, [column, f"{column}_scale"], wanted):
            yield row0, _decoded(table, column, self.plan.dim)

    def _tables(self, checkpoint: str, columns: list[str] | None, wanted: range) -> Iterator[tuple[int, pa.Table]]:
        """(first row, table) for each row group that holds wanted rows, cut to those rows."""
        if checkpoint not in self.plan.checkpoint_names:
            raise StoreError(
                f"the store has no checkpoint {checkpoint!r}; it has {', '.join(self.plan.checkpoint_names)}"
            )
        if self.kept is None:
            yield from _row_groups(self.segments, checkpoint, columns, wanted)
            return
        rows = self.kept[wanted.start : wanted.stop]
        row0 = wanted.start
        for first, table in _row_groups(self.segments, checkpoint, columns, range(rows[0], rows[-1] + 1)):
            start, stop = np.searchsorted(rows, (first, first + len(table)))
            if start < stop:
                whole = stop - start == len(table)
                yield row0, table if whole else table.take(pa.array(rows[start:stop] - first))
                row0 += int(stop - start)


def _row_groups(
    segments: Sequence[Segment], checkpoint: str, columns: list[str] | None, wanted: range
) -> Iterator[tuple[int, pa.Table]]:
    """(first row, table) for each row group of the whole store that holds wanted rows, cut to those rows."""
    for segment in segments:
        for record in segment.manifest.shards:
            if record.checkpoint != checkpoint or record.last_row < wanted.start or record.first_row >= wanted.stop:
                continue
            with opened_shard(segment.folder, segment.plan, record) as file:
                row0 = record.first_row
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    first, stop = max(row0, wanted.start), min(row0 + count, wanted.stop)
                    if first < stop:
                        table = file.read_row_group(group, columns=columns, use_threads=False)
                        yield first, table.slice(first - row0, stop - first)
                    row0 += count


@contextmanager
def opened_shard(folder: Path, plan: StorePlan, record: ShardRecord) -> Iterator[pq.ParquetFile]:
    """A shard opened for reading; raises StoreError when it is foreign, or damaged so that Arrow says it."""
    path = shard_path(folder, record.checkpoint, record.shard)
    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            expected = shard_schema(plan, record.checkpoint, record.shard)
            if file.metadata.num_rows != record.rows or not file.schema_arrow.equals(expected, check_metadata=True):
                raise StoreError(f"{path} is not this store's shard of {record.rows} rows; {rebuild(folder)}")
            yield file
    except (pa.ArrowException, OSError) as broken:
        reason = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
        raise StoreError(f"{path} cannot be read ({reason}); {rebuild(folder)}") from None


def _ids_of(segment: Segment) -> list[str]:
    """The ids of a segment's rows: from the record of its samples where the shards agree, else from these."""
    plan, shards = segment.plan, segment.manifest.shards[: segment.plan.shards_per_checkpoint]
    records = read_samples(segment.folder)
    if records is not None and records.table.num_rows == plan.sample_count:
        ids: list[str] = records.ids.to_pylist()
        starts = [record.first_row - plan.first_row for record in shards]
        if all(
            fingerprint(ids[start : start + record.rows]) == record.samples
            for start, record in zip(starts, shards, strict=True)
        ):
            return ids
    return [
        name
        for _, table in _row_groups([segment], plan.checkpoint_names[0], ["sample_id"], segment.rows)
        for name in table["sample_id"].to_pylist()
    ]


def _check_shards(segment: Segment) -> None:
    """Raise StoreError when a shard's file or sidecar is missing, or not the one that the manifest lists.

    Files are not opened: with a hundred thousand of them that would take minutes (docs/store.md).
    """
    for record in segment.manifest.shards:
        problem = shard_problem(segment.folder, record)
        if problem:
            raise StoreError(f"{problem}; {rebuild(segment.folder)}")


def shard_problem(folder: Path, record: ShardRecord) -> str:
    """What can be seen to be wrong with a shard without reading it; mostly empty."""
    path = shard_path(folder, record.checkpoint, record.shard)
    try:
        size = path.stat().st_size
    except OSError:
        return f"{path} is missing"
    if size != record.bytes:
        return f"{path} has {size} bytes instead of {record.bytes}"
    sidecar = path.with_suffix(".json")
    try:
        said = json.loads(sidecar.read_bytes())
    except OSError:
        return f"{sidecar} does not exist"
    except ValueError:
        return f"{sidecar} is not valid JSON"
    return "" if said == asdict(record) else f"{sidecar} does not agree with the manifest"


def _decoded(table: pa.Table, column: str, dim: int) -> NDArray[np.float32]:
    """float32[B, k] of one vector column. The float16 numbers are viewed in Arrow's buffer, not copied."""
    scales = table[f"{column}_scale"].to_numpy()  # [B]
    views = [
        # A chunk is a window into its buffer: skip the rows before it.
        np.frombuffer(chunk.buffers()[1], HALF, len(chunk) * dim, chunk.offset * dim * HALF.itemsize).reshape(-1, dim)
        for chunk in table[column].chunks
    ]
    return from_half(views[0] if len(views) == 1 else np.concatenate(views), scales)
