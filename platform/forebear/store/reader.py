"""Reading a store: checked when opened, memory mapped when read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.errors import StoreError
from forebear.files import sha256_of_file
from forebear.store.half import HALF, from_half
from forebear.store.manifest import Manifest, check_records, read_manifest
from forebear.store.plan import StorePlan
from forebear.store.shard import ShardRecord, read_sidecar, rebuild, shard_path, shard_schema, some_of


@dataclass(frozen=True)
class Store:
    """Embeddings of N samples at every checkpoint of a plan. Row i is sample i of the training set.

    Every method that reads rows raises StoreError when a shard turns out to be damaged.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path, plan: StorePlan | None = None) -> "Store":
        """Open a finished store: checks the manifest, the plan when one is wanted, and each shard's presence and rows.

        Checksums are compared when rows are read (page by page) and by `verify` (whole files). Raises StoreError.
        """
        manifest = read_manifest(folder)
        if plan is not None:
            manifest.check_plan(plan, folder)
        if not manifest.shards:
            raise StoreError(f"the store in {folder} is not finished; {rebuild(folder)}")
        check_records(folder, manifest.plan, manifest.shards)
        for record in manifest.shards:
            _check_shard(folder, manifest.plan, record)
        return cls(folder, manifest)

    @property
    def plan(self) -> StorePlan:
        return self.manifest.plan

    def __len__(self) -> int:
        return self.plan.sample_count

    def verify(self) -> None:
        """Hash every shard again; raises StoreError that names the damaged ones."""
        damaged = [
            str(path) for record in self.manifest.shards if sha256_of_file(path := self._path(record)) != record.sha256
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

    def blocks(self, checkpoint: str, column: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32[B, k]) in order, at most a row group at a time.

        Blocks begin at the same rows for every checkpoint and column, so that several can be walked side by side.
        """
        return self._vector_blocks(checkpoint, column, range(len(self)))

    def ids(self) -> tuple[str, ...]:
        """The sample id of every row."""
        return self._ids

    @cached_property
    def _ids(self) -> tuple[str, ...]:
        first = self.plan.checkpoint_names[0]
        return tuple(
            sample_id
            for _, table in self._tables(first, ["sample_id"], range(len(self)))
            for sample_id in table["sample_id"].to_pylist()
        )

    def norms(self, checkpoint: str) -> NDArray[np.float32]:
        """float32[N, T]: L2 norms of the full gradients, before projection."""
        return self._per_timestep(checkpoint, "norms", np.float32)

    def losses(self, checkpoint: str) -> NDArray[np.float32]:
        """float32[N, T]."""
        return self._per_timestep(checkpoint, "losses", np.float32)

    def timesteps(self, checkpoint: str) -> NDArray[np.int32]:
        """int32[N, T]."""
        return self._per_timestep(checkpoint, "timesteps", np.int32)

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

    def _path(self, record: ShardRecord) -> Path:
        return shard_path(self.folder, record.checkpoint, record.shard)

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
        for record in self.manifest.shards:
            if record.checkpoint != checkpoint or record.last_row < wanted.start or record.first_row >= wanted.stop:
                continue
            with _shard_file(self.folder, self._path(record)) as file:
                row0 = record.first_row
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    first, stop = max(row0, wanted.start), min(row0 + count, wanted.stop)
                    if first < stop:
                        table = file.read_row_group(group, columns=columns, use_threads=False)
                        yield first, table.slice(first - row0, stop - first)
                    row0 += count


@contextmanager
def _shard_file(folder: Path, path: Path) -> Iterator[pq.ParquetFile]:
    """A shard opened for reading; what Arrow says about a damaged file becomes a StoreError."""
    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as broken:
        reason = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
        raise StoreError(f"{path} cannot be read ({reason}); {rebuild(folder)}") from None


def _check_shard(folder: Path, plan: StorePlan, record: ShardRecord) -> None:
    path = shard_path(folder, record.checkpoint, record.shard)
    if not path.is_file():
        raise StoreError(f"{path} is missing; {rebuild(folder)}")
    if path.stat().st_size != record.bytes:
        raise StoreError(f"{path} has {path.stat().st_size} bytes instead of {record.bytes}; {rebuild(folder)}")
    if read_sidecar(folder, record.checkpoint, record.shard) != record:
        raise StoreError(f"{path.with_suffix('.json')} does not agree with the manifest; {rebuild(folder)}")
    with _shard_file(folder, path) as file:
        expected = shard_schema(plan, record.checkpoint, record.shard)
        if file.metadata.num_rows != record.rows or not file.schema_arrow.equals(expected, check_metadata=True):
            raise StoreError(f"{path} is not this store's shard of {record.rows} rows; {rebuild(folder)}")


def _decoded(table: pa.Table, column: str, dim: int) -> NDArray[np.float32]:
    """float32[B, k] of one vector column. The float16 numbers are viewed in Arrow's buffer, not copied."""
    scales = table[f"{column}_scale"].to_numpy()  # [B]
    views = [
        # A chunk is a window into its buffer: skip the rows before it.
        np.frombuffer(chunk.buffers()[1], HALF, len(chunk) * dim, chunk.offset * dim * HALF.itemsize).reshape(-1, dim)
        for chunk in table[column].chunks
    ]
    return from_half(views[0] if len(views) == 1 else np.concatenate(views), scales)
