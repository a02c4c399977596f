"""A training set in the order in which a store knows its samples, whatever order its source has now."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forebear.data.catalogue import Samples, id_order, in_memory
from forebear.data.sample import Sample
from forebear.data.training_set import TrainingSet


def rows_by_id(training_set: TrainingSet, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """int64[n]: the row of each of n sample ids, -1 where the set does not have it."""
    known = training_set.samples.column("id").cast(pa.large_string())
    places = pc.index_in(ids.cast(pa.large_string()), value_set=known)
    return np.asarray(pc.fill_null(places, -1).to_numpy()).astype(np.int64)


def arranged(
    training_set: TrainingSet, ids: pa.Array | pa.ChunkedArray, locators: Sequence[str] | None = None
) -> TrainingSet:
    """The samples of `ids`, in that order, from a set that has them in any.

    An id that the set does not have becomes a sample of which nothing is known but its entry in `locators`, and whose
    picture cannot be read. Ids in the set's own order are a view of it, others are copied into memory.
    """
    rows = rows_by_id(training_set, ids)
    gone = np.flatnonzero(rows < 0)
    if not len(gone) and (np.diff(rows) > 0).all():
        if len(rows) == len(training_set):
            return training_set
        return training_set.of_rows(rows)
    present = np.sort(rows[rows >= 0])
    tables = [pa.Table.from_batches(training_set.samples.of_rows(present).batches(), training_set.samples.table.schema)]
    places = np.searchsorted(present, rows)
    if len(gone):
        missing = [Sample(ids[int(row)].as_py(), locators[int(row)] if locators else "") for row in gone]
        places[gone] = len(present) + np.arange(len(gone))
        tables.append(in_memory(missing).samples.table)
    table = pa.concat_tables(tables).combine_chunks().take(pa.array(places))
    return training_set.with_samples(Samples(table, id_order(table)))
