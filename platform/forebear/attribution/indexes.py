"""The indexes of a run: what they are made from, and opened only when they belong to its store.

Estimators with the same training side share one index, which lies under the name of the first of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.sides import Sides
from forebear.errors import SearchIndexError
from forebear.estimators import ESTIMATORS, Estimator, estimator, index_name
from forebear.files import fingerprint
from forebear.index import IndexMetadata, SearchIndex, WeightedCheckpoint, open_search_index
from forebear.run import Run
from forebear.store import Manifest, Store


@dataclass(frozen=True)
class LiveIndex:
    """An index in the rows of a store's samples that were not removed, whatever had been when it was built."""

    index: SearchIndex
    rows: NDArray[np.int64] | None
    """int64[N]: the index's row of each of the store's; None when they are the same."""

    def scores(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[Q, N]: exact scores of queries float32[Q, D] with every sample that was not removed."""
        found = self.index.scores(queries)
        return found if self.rows is None else found[:, self.rows]


def live_index(index: SearchIndex, store: Store) -> LiveIndex:
    """An index without what was removed since it was built; raises SearchIndexError when it lacks a sample."""
    if store.kept is None and len(index) == len(store):  # of one plan, so these are the same samples
        return LiveIndex(index, None)
    places = {name: row for row, name in enumerate(index.ids)}
    rows = [places.get(name, -1) for name in store.ids()]
    if missing := rows.count(-1):
        raise SearchIndexError(
            f"the index in {index.folder} lacks {missing} images that were restored since it was built; "
            f"run `forebear index --run {index.folder.parent.parent}`"
        )
    return LiveIndex(index, None if rows == list(range(len(index))) else np.array(rows, np.int64))


def index_metadata(store: Store, owner: Estimator) -> IndexMetadata:
    """What an index of the store's rows for an estimator is built from."""
    return IndexMetadata(owner.name, store.plan.hash, _checkpoints(store.manifest, owner))


def made_from(store: Store, owner: Estimator, first: int, stop: int) -> str:
    """Fingerprint of what the vectors of the store's rows `first` to before `stop` are made from.

    Where one row's vector depends on others, as a residual does on the mean loss, that is the whole store.
    """
    if owner.baseline or owner.residual:
        return fingerprint([store.plan.hash, sorted(store.left_out)])
    rows = (first, stop - 1) if store.kept is None else store.kept[[first, stop - 1]].tolist()
    records = (
        [record.checkpoint, record.first_row, record.sha256]
        for record in store.manifest.shards
        if record.first_row <= rows[1] and record.last_row >= rows[0]
    )
    return fingerprint([owner.column, sorted(records)])


def indexed(run: Run, store: Store) -> tuple[str, ...]:
    """The estimators that the run can answer for: index and, where they need it, curvature are there."""
    sides = Sides(run, store)
    return tuple(
        name
        for name, method in ESTIMATORS.items()
        if run.index_folder(index_name(name)).is_dir() and sides.has_curvatures(method)
    )


def served_by(run: Run, owner: str) -> tuple[str, ...]:
    """Of `indexed`, the estimators that search the index of `owner`."""
    return tuple(name for name in indexed(run, Store.open(run.store_folder)) if index_name(name) == owner)


def open_index(run: Run, name: str, manifest: Manifest, *, allow_low_recall: bool = False) -> SearchIndex:
    """The index of an estimator.

    Raises ConfigError for an unknown estimator, SearchIndexError when the index is missing or was built from a store
    with another plan or other weights, or finds less than its floor and `allow_low_recall` is not set.
    """
    method = estimator(name)
    owner = index_name(name)
    folder = run.index_folder(owner)
    remedy = f"run `forebear index --run {run.folder} --estimator {name}`"
    index = open_search_index(folder, manifest.plan_hash, allow_low_recall=allow_low_recall)
    metadata = index.description.metadata
    if metadata.estimator != owner:
        raise SearchIndexError(f"the index in {folder} is one of {metadata.estimator!r}, not of {owner!r}; {remedy}")
    if metadata.checkpoints != _checkpoints(manifest, method):
        raise SearchIndexError(
            f"the index in {folder} was built with other checkpoint weights than the store's; {remedy}"
        )
    return index


def _checkpoints(manifest: Manifest, method: Estimator) -> tuple[WeightedCheckpoint, ...]:
    if method.baseline:
        return ()
    return tuple(WeightedCheckpoint(name, manifest.weights[name]) for name in manifest.plan.checkpoint_names)
