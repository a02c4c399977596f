"""Opens a run's store together with the training images that it was made from."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from forebear.config import parse
from forebear.data import DataConfig, TrainingSet, open_training_set, rows_by_id
from forebear.errors import StoreError
from forebear.files import fingerprint
from forebear.run import Run
from forebear.store import Store, take_samples


def open_embedded(run: Run) -> tuple[Store, TrainingSet]:
    """The store and its training images, both without those that were removed.

    Raises ConfigError when it is not a run, StoreError when its store is not whole or of other images.
    """
    store, whole = open_whole(run)
    return store, live_training_set(store, whole)


def open_whole(run: Run) -> tuple[Store, TrainingSet]:
    """The same with all of the training images, row by row those of `store.whole`.

    Removed ones whose pictures are gone are there by their ids. Raises as `open_embedded` does.
    """
    data = parse(DataConfig, run.section("data"), str(run.settings_file))
    store = Store.open(run.store_folder)
    source = open_training_set(data)
    if source.fingerprint == store.plan.dataset:
        return store, source
    records = store.records()
    whole = take_samples(store.folder, source, records, store.plan.dataset, store.left_out)
    _refuse_added(run, source, records.ids, store.left_out)
    return store, whole


def live_training_set(store: Store, whole: TrainingSet) -> TrainingSet:
    """Of a store's training images, those that were not removed."""
    if store.kept is None:
        return whole
    live = whole.of_rows(store.kept)
    return live.with_samples(live.samples.known_as(fingerprint([store.plan.dataset, store.kept.tolist()])))


def _refuse_added(run: Run, source: TrainingSet, ids: pa.ChunkedArray, removed: Collection[str]) -> None:
    """Raise StoreError when the source has images that were neither embedded nor removed: answers would lack them."""
    places = rows_by_id(source, ids)
    new = np.ones(len(source), np.bool_)
    new[places[places >= 0]] = False
    added = [sample for row in np.flatnonzero(new) if (sample := source.samples[int(row)]).id not in removed]
    if added:
        raise StoreError(
            f"{len(added)} training images of {run.folder} were added since it was embedded, such as {added[0].id} "
            f"({added[0].locator}); embed them with `forebear embed --run {run.folder} --grow`, then `forebear index`"
        )
