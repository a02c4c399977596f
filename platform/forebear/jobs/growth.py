"""A run whose training images are not those that its store was made from: what was added, what is gone."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from forebear.data import TrainingSet, rows_by_id
from forebear.errors import ForebearError, StoreError
from forebear.run import Run
from forebear.store import (
    SampleRecords,
    Store,
    StorePlan,
    prepare_store,
    read_manifest,
    read_removed,
    read_samples,
    remove_samples,
    take_samples,
    write_samples,
)
from forebear.store.manifest import manifest_path
from forebear.store.segments import (
    ListedSegment,
    following,
    list_segments,
    listed_segments,
    next_segment,
    open_segments,
)
from forebear.store.shard import some_of

GONE = "gone from the source"
"""Why `--grow` takes a sample out of the answers."""

Tell = Callable[[str], None]


def divided(
    run: Run, source: TrainingSet, *, grow: bool, restart: bool, tell: Tell
) -> tuple[TrainingSet, TrainingSet | None]:
    """The samples of the store's first segment, as the source has them now, and those that are to be added.

    A store that is begun here gets all that was not removed. Samples of a store that are gone from the source are taken
    out of its answers when it grows, after `tell` has heard their names. Raises StoreError when the images changed and
    the store is not to `grow`, or when a caption or label changed.
    """
    folder = run.store_folder
    removed = set(read_removed(folder))
    if restart or not any(folder.glob("checkpoint=*/shard-*.json")):
        return _without(source, removed), None
    manifest = read_manifest(folder)
    if source.fingerprint == manifest.plan.dataset and not listed_segments(folder):
        return source, None
    records = _records(folder)
    if records is None:
        return source, None  # of an unfinished store, which can only be of other images: its plan says so
    first, everything = records
    places = rows_by_id(source, everything.ids)
    gone = [row for row in np.flatnonzero(places < 0) if everything.ids[int(row)].as_py() not in removed]
    new = np.ones(len(source), np.bool_)
    new[places[places >= 0]] = False
    added = _without(source.of_rows(np.flatnonzero(new)), removed) if new.any() else None
    added = added if added is not None and len(added) else None
    if gone or added is not None:
        names = everything.named(np.array(gone, np.int64)) if gone else []
        said = _said(added, names)
        if not manifest.shards:
            return source, None
        if not grow:
            raise StoreError(
                f"the training images of {run.folder} are not those that were embedded: {said}; "
                f"`forebear embed --run {run.folder} --grow` embeds the new ones alone and takes those that are gone "
                "out of all answers, --restart embeds everything anew"
            )
        if added is not None and manifest.plan.timestep_scheme == "recorded":
            raise StoreError(
                f"{said}; the store replays what training drew (recorded), and training never drew the new images: "
                "embed a run that was trained on them"
            )
        tell(said)
        ids = [everything.ids[int(row)].as_py() for row in gone]
        if ids:
            remove_samples(folder, ids, GONE)
            removed |= set(ids)
    return take_samples(folder, source, first, manifest.plan.dataset, removed), added


@contextmanager
def growing(folder: Path, added: TrainingSet, weights: dict[str, float]) -> Iterator[tuple[StorePlan, Path]]:
    """The plan and the folder of a new segment; the store has it when the block has embedded all of it.

    A segment that was begun for other images is begun anew.
    """
    plan = following(open_segments(folder), added.fingerprint, len(added))
    part = next_segment(folder)
    prepare_store(part, plan, weights, restart=manifest_path(part).exists() and _plan_of(part) != plan)
    write_samples(part, added)
    yield plan, part
    list_segments(folder, [*listed_segments(folder), ListedSegment(part.name, plan.hash, len(added))])


def _records(folder: Path) -> tuple[SampleRecords, SampleRecords] | None:
    """Of the first segment, and of all; None when they are not known."""
    first = read_samples(folder)
    rest = [read_samples(folder / one.name) for one in listed_segments(folder)]
    if first is not None and None not in rest:
        return first, SampleRecords(pa.concat_tables([one.table for one in (first, *rest) if one is not None]))
    try:
        everything = Store.open(folder).records()
    except StoreError:
        return None
    rows = read_manifest(folder).plan.sample_count
    return SampleRecords(everything.table.slice(0, rows)), everything


def _without(training_set: TrainingSet, removed: Collection[str]) -> TrainingSet:
    if not removed:
        return training_set
    places = rows_by_id(training_set, pa.array(sorted(removed), pa.string()))
    if not (places >= 0).any():
        return training_set
    return training_set.of_rows(np.setdiff1d(np.arange(len(training_set)), places))


def _said(added: TrainingSet | None, gone: Sequence[str]) -> str:
    parts = []
    if added is not None:
        names = [f"{sample.id} ({sample.locator})" for sample in added.samples[:6]]
        more = f" and {len(added) - 5:,} more" if len(added) > 5 else ""
        parts.append(f"{len(added):,} new: {', '.join(names[:5])}{more}")
    if gone:
        parts.append(f"{len(gone):,} gone: {some_of(gone)}")
    return "; ".join(parts)


def _plan_of(folder: Path) -> StorePlan | None:
    try:
        return read_manifest(folder).plan
    except ForebearError:
        return None
