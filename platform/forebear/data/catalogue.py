"""Samples in columns: what a scan found, in memory-mapped Arrow files, where a row becomes an object when asked for."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forebear.data.sample import Entry, Quarantined, Sample
from forebear.errors import DataError
from forebear.files import fingerprint_of_items, read_json, whole_file, write_json

BATCH_ROWS = 1 << 14
"""Rows of one Arrow batch: what a scan holds in memory before it writes."""
READ_ROWS = 1 << 12
"""Rows that become objects together when all are read in turn."""

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        ("label", pa.int64()),
        pa.field("groups", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)
QUARANTINE_SCHEMA = pa.schema([("locator", pa.string()), ("reason", pa.string())])

T = TypeVar("T")


class Records(Sequence[T], Generic[T]):
    """The rows of an Arrow table, or some of them in ascending order, as objects made one at a time."""

    def __init__(
        self, table: pa.Table, make: Callable[[Mapping[str, Any]], T], rows: NDArray[np.int64] | None = None
    ) -> None:
        self.table, self._make, self._rows = table, make, rows

    def __len__(self) -> int:
        return self.table.num_rows if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, row: int) -> T: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[T, ...]: ...
    def __getitem__(self, row: int | slice) -> T | tuple[T, ...]:
        if isinstance(row, slice):
            return tuple(self[place] for place in range(*row.indices(len(self))))
        place = self._place(row)
        return self._make({name: self.table.column(name)[place].as_py() for name in self.table.column_names})

    def __iter__(self) -> Iterator[T]:
        for batch in self.batches():
            yield from map(self._make, batch.to_pylist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment] # equal to a tuple of the same objects, whose hash would need them all

    def batches(self, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The chosen columns (all by default) in order, at most READ_ROWS rows at a time."""
        table = self.table if names is None else self.table.select(list(names))
        start = 0
        for batch in table.to_batches(max_chunksize=READ_ROWS):
            if self._rows is None:
                yield batch
            else:
                # Taken batch by batch: from a whole column of many chunks, Arrow would copy the column first.
                first, last = np.searchsorted(self._rows, (start, start + batch.num_rows))
                if first < last:
                    yield batch.take(pa.array(self._rows[first:last] - start))
            start += batch.num_rows

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the rows, for work on all of them without an object for each."""
        if self._rows is None:
            return self.table.column(name)
        chunks = [batch.column(0) for batch in self.batches([name])]
        return pa.chunked_array(chunks, self.table.schema.field(name).type)

    def _place(self, row: int) -> int:
        place = row + len(self) if row < 0 else row
        if not 0 <= place < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return place if self._rows is None else int(self._rows[place])


class Samples(Records[Sample]):
    """Samples in a fixed order, found by row or by id."""

    def __init__(
        self,
        table: pa.Table,
        by_id: NDArray[np.int64],
        rows: NDArray[np.int64] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """`by_id` int64[rows of the table]: the table's rows in the order of their ids; `rows`: those kept."""
        super().__init__(table, _sample, rows)
        self._by_id, self._known_fingerprint = by_id, fingerprint

    def of_rows(self, rows: NDArray[np.int64]) -> "Samples":
        """The subset of the rows int64[n], ascending."""
        return Samples(self.table, self._by_id, rows if self._rows is None else self._rows[rows])

    def known_as(self, fingerprint: str) -> "Samples":
        """The same samples, identified by what they were once, or by what they were made from."""
        return Samples(self.table, self._by_id, self._rows, fingerprint)

    def identified(self) -> "Samples":
        """The same samples, identified by what they are."""
        return Samples(self.table, self._by_id, self._rows)

    def row(self, sample_id: str) -> int | None:
        """The row of an id, by binary search; None when it is not among them."""
        ids = self.table.column("id")
        place = bisect_left(self._by_id, sample_id, key=lambda row: str(ids[int(row)].as_py()))
        if place == len(self._by_id) or ids[row := int(self._by_id[place])].as_py() != sample_id:
            return None
        if self._rows is None:
            return row
        kept = int(np.searchsorted(self._rows, row))
        return kept if kept < len(self._rows) and self._rows[kept] == row else None

    def first_by_id(self, count: int) -> "Samples":
        """The `count` samples whose ids come first, in the order of these samples."""
        if count >= len(self):
            return self
        if self._rows is None:
            return self.of_rows(np.sort(self._by_id[:count]))
        kept = np.zeros(self.table.num_rows, np.bool_)
        kept[self._rows] = True
        chosen = self._by_id[kept[self._by_id]][:count]
        return Samples(self.table, self._by_id, np.sort(chosen))

    def group(self, name: str) -> pa.ChunkedArray:
        """The values of a group column, null for samples without one."""
        # The array itself and not its rows' columns: a map's lookup goes wrong on a slice of several chunks.
        chunks = [pc.map_lookup(batch.column(0), name, "first") for batch in self.batches(["groups"])]
        return pa.chunked_array(chunks, pa.string())

    @cached_property
    def group_names(self) -> tuple[str, ...]:
        """The group columns that any sample carries, in order of first appearance."""
        names: dict[str, None] = {}
        for batch in self.batches(["groups"]):
            # `flatten` minds a slice's bounds, `keys` would not.
            names.update(dict.fromkeys(pc.unique(batch.column(0).cast(_PAIRS).flatten().field(0)).to_pylist()))
        return tuple(names)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies ids, captions, labels and their order: that of the list of these three."""
        if self._known_fingerprint is not None:
            return self._known_fingerprint
        columns = ["id", "caption", "label"]
        lines = (
            list(line)
            for batch in self.batches(columns)
            for line in zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
        )
        return fingerprint_of_items(lines)


_PAIRS = pa.list_(pa.struct([pa.field("key", pa.string(), nullable=False), ("value", pa.string())]))


def _sample(line: Mapping[str, Any]) -> Sample:
    return Sample(**{**line, "groups": dict(line["groups"])})


def _quarantined(line: Mapping[str, Any]) -> Quarantined:
    return Quarantined(**line)


@dataclass(frozen=True)
class Catalogue:
    """What a scan found."""

    samples: Samples
    quarantined: Records[Quarantined]


class _Columns:
    """Rows on their way into Arrow batches of one schema."""

    def __init__(self, schema: pa.Schema, write: Callable[[pa.RecordBatch], object]) -> None:
        self._schema, self._write = schema, write
        self._values: dict[str, list[Any]] = {name: [] for name in schema.names}

    def add(self, entry: Entry) -> None:
        for name, values in self._values.items():
            value = getattr(entry, name)
            values.append(list(value.items()) if name == "groups" else value)
        if len(values) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        places = self._values["locator"]
        if not places:
            return
        try:
            arrays = [pa.array(self._values[field.name], field.type) for field in self._schema]
        except (UnicodeEncodeError, OverflowError, pa.ArrowException) as broken:
            raise DataError(
                f"a caption, group or label between {places[0]} and {places[-1]} cannot be kept ({broken}); captions "
                "and groups must be Unicode text, labels whole numbers below 2 to the power of 63"
            ) from None
        self._write(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._values = {name: [] for name in self._values}


def in_memory(entries: Iterable[Entry]) -> Catalogue:
    """The catalogue of a source that is small or of samples that are objects already."""
    batches: dict[type, list[pa.RecordBatch]] = {Sample: [], Quarantined: []}
    write_entries(entries, batches[Sample].append, batches[Quarantined].append)
    table = pa.Table.from_batches(batches[Sample], SAMPLE_SCHEMA)
    samples = Samples(table, id_order(table))
    return Catalogue(samples, _quarantine(pa.Table.from_batches(batches[Quarantined], QUARANTINE_SCHEMA)))


def write_catalogue(folder: Path, entries: Iterable[Entry]) -> None:
    """Write what a scan finds into `folder`, batch by batch; `read_catalogue` opens it.

    Transient memory: one batch of rows, and about 40 bytes a sample while ids are put in order. Raises DataError when
    an id occurs twice.
    """
    with _writers(folder) as (samples, quarantined):
        write_entries(entries, samples.write_batch, quarantined.write_batch)
    _finish(folder)


def copy_catalogue(folder: Path, samples: Iterable[pa.RecordBatch], quarantined: Iterable[pa.RecordBatch]) -> None:
    """`write_catalogue` of entries that are in batches already, of any size."""
    with _writers(folder) as writers:
        for writer, batches in zip(writers, (samples, quarantined), strict=True):
            for batch in _joined(batches):
                writer.write_batch(batch)
    _finish(folder)


@contextmanager
def _writers(folder: Path) -> Iterator[tuple[pa.ipc.RecordBatchFileWriter, pa.ipc.RecordBatchFileWriter]]:
    with (
        whole_file(folder / "samples.arrow") as samples_part,
        whole_file(folder / "quarantined.arrow") as quarantined_part,
        pa.ipc.new_file(samples_part, SAMPLE_SCHEMA) as samples,
        pa.ipc.new_file(quarantined_part, QUARANTINE_SCHEMA) as quarantined,
    ):
        yield samples, quarantined


def _joined(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of BATCH_ROWS or more."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= BATCH_ROWS:
            yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()
            waiting = []
    if waiting:
        yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()


def _finish(folder: Path) -> None:
    """Write the order of the ids and the fingerprint beside the samples."""
    table = _mapped(folder / "samples.arrow")
    by_id = id_order(table)
    with whole_file(folder / "by_id.npy") as part, part.open("wb") as handle:
        np.save(handle, by_id)
    write_json(folder / "catalogue.json", {"fingerprint": Samples(table, by_id).fingerprint})


def read_catalogue(folder: Path) -> Catalogue:
    """Open a catalogue by memory mapping; raises DataError when a part is missing or damaged."""
    remedy = "remove the folder, the next scan writes it anew"
    found = read_json(folder / "catalogue.json", DataError, remedy)
    try:
        table = _mapped(folder / "samples.arrow")
        by_id = np.load(folder / "by_id.npy", mmap_mode="r")
        samples = Samples(table, by_id, fingerprint=str(found["fingerprint"]))
        catalogue = Catalogue(samples, _quarantine(_mapped(folder / "quarantined.arrow")))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as broken:
        raise DataError(f"{folder} is not a readable catalogue ({broken}); {remedy}") from None
    if table.schema != SAMPLE_SCHEMA or len(by_id) != table.num_rows:
        raise DataError(f"{folder} is not a readable catalogue (its parts do not belong together); {remedy}")
    return catalogue


def write_entries(
    entries: Iterable[Entry],
    write_samples: Callable[[pa.RecordBatch], object],
    write_quarantined: Callable[[pa.RecordBatch], object],
) -> None:
    """Turn entries into batches of BATCH_ROWS rows, the last one of each kind smaller. Raises DataError for values that
    no column holds."""
    columns = {
        Sample: _Columns(SAMPLE_SCHEMA, write_samples),
        Quarantined: _Columns(QUARANTINE_SCHEMA, write_quarantined),
    }
    for entry in entries:
        columns[type(entry)].add(entry)
    for part in columns.values():
        part.flush()


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _quarantine(table: pa.Table) -> Records[Quarantined]:
    return Records(table, _quarantined)


def id_order(table: pa.Table) -> NDArray[np.int64]:
    """Rows of a table of samples in the order of their ids, int64[N]; raises DataError when an id occurs twice."""
    ids = table.column("id").cast(pa.large_string()).combine_chunks()
    order = pc.sort_indices(ids)
    repeated: set[str] = set()
    for start in range(0, len(order), BATCH_ROWS):
        block = ids.take(order[start : start + BATCH_ROWS + 1])
        repeated |= set(block[1:].filter(pc.equal(block[1:], block[:-1])).to_pylist())
    if repeated:
        first = ids[pc.index_in(ids, pa.array(sorted(repeated), ids.type)).is_valid().index(True).as_py()]
        raise DataError(f"{len(repeated)} sample ids occur twice (first: {first}); the source must name each once")
    rows: NDArray[np.int64] = order.to_numpy().astype(np.int64)
    return rows
