"""`forebear index`: what estimators search, built from a run's store in this process, or part by part on Ray actors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from forebear.attribution.curvature import build_curvature
from forebear.attribution.indexes import index_metadata, made_from
from forebear.attribution.sides import Sides
from forebear.errors import ConfigError, DataError, JobError, SearchIndexError, StoreError
from forebear.estimators import ESTIMATORS, Blocks, Estimator, estimator, index_name
from forebear.index import IndexConfig, Part, SearchIndex, ShardedBuild, build_index
from forebear.index.building import chosen_kind
from forebear.index.libraries import check_libraries
from forebear.jobs.disks import unwritable, writing
from forebear.jobs.dispatch import Pool, TimeLimit, run_on_ray
from forebear.jobs.driving import ProgressWatch, first_of, run_here, unworkable
from forebear.jobs.embedding import one_thread
from forebear.jobs.events import INDEXING, EventLog, RayMetrics, events_path
from forebear.jobs.scheduler import SetAside
from forebear.progress import Progress, progress
from forebear.run import Run
from forebear.store import Store

UNLIMITED = TimeLimit(seconds=float("inf"))
"""A part of one estimator is no measure of another's: their vectors differ in length."""


def build_indexes(
    run: Run, names: Sequence[str] | None, config: IndexConfig, shard_rows: int | None = None, workers: int = 0
) -> tuple[SearchIndex, ...]:
    """Build what the named estimators search, or all that the run can serve: each distinct index and curvature once.

    With `shard_rows`, in parts of so many rows, the last one of an index fewer; parts that a build of before finished
    of the same rows are kept. The parts of all indexes are built by `workers` Ray actors of one thread each, or with 0
    by this process, on one thread of torch: the bytes are the same. An actor that dies is replaced, and its part tried
    again. A part that cannot be built is left out, the others are built and kept for the next try, and JobError names
    it at the end. Actors read and write the run's folder, so on several machines it must be a shared one. Progress is
    appended to RUN/progress/indexing.jsonl.

    Returns the indexes in the order in which they are first needed. Raises ConfigError for workers without parts, an
    unknown estimator or one whose measurement the store lacks, StoreError when the store is missing or not whole, and
    what `build_index` raises where it builds one part, or FAISS is missing.
    """
    if workers and shard_rows is None:
        raise ConfigError(
            "an index in one part is built by one process; give --shard-rows (shard_rows) to build parts by workers, "
            "or no workers"
        )
    chosen = None if names is None else [estimator(name) for name in dict.fromkeys(names)]
    store = Store.open(run.store_folder)
    sides = Sides(run, store)
    if chosen is None:
        chosen = [method for method in ESTIMATORS.values() if sides.holds(method)]
    for method in chosen:
        sides.check(method)
    owners = [estimator(owner) for owner in dict.fromkeys(index_name(method.name) for method in chosen)]
    with (
        writing(run.folder),
        EventLog(events_path(run, INDEXING)) as log,
        progress(INDEXING, len(store) * len(owners), "images", listeners=(log, RayMetrics(run))) as bar,
    ):
        if shard_rows is None:
            built = tuple(_build_whole(sides, owner, config, bar) for owner in owners)
        else:
            builds = [_begun(sides, owner, config, shard_rows) for owner in owners]
            built = _build_parts(sides, builds, workers, bar)
    for column in dict.fromkeys(method.column for method in chosen if method.ridge is not None):
        build_curvature(run, store, column)
    return built


def _build_whole(sides: Sides, owner: Estimator, config: IndexConfig, bar: Progress) -> SearchIndex:
    folder, metadata = sides.run.index_folder(owner.name), index_metadata(sides.store, owner)
    bar.note = owner.name
    blocks = _counted(sides.training_vectors(owner), bar.advance)
    return build_index(folder, blocks, sides.dim(owner), sides.store.ids(), config=config, metadata=metadata)


def _begun(sides: Sides, owner: Estimator, config: IndexConfig, shard_rows: int) -> ShardedBuild:
    return ShardedBuild(
        sides.run.index_folder(owner.name),
        sides.dim(owner),
        sides.store.ids(),
        shard_rows=shard_rows,
        config=config,
        metadata=index_metadata(sides.store, owner),
        source=partial(made_from, sides.store, owner),
    )


def _build_parts(sides: Sides, builds: Sequence[ShardedBuild], workers: int, bar: Progress) -> tuple[SearchIndex, ...]:
    """Build the parts that are missing, and put indexes in place whose parts are all there.

    Raises JobError that names parts that cannot be built.
    """
    missing: list[Part] = []
    for build in builds:
        for part in build.parts:
            if build.keeps(part):
                bar.found(len(part.ids), f"{_named(part)} is there")
            else:
                missing.append(part)
    watch = IndexWatch(bar, len(missing))
    if workers and missing:
        store = replace(sides.store)  # without what it has cached
        pool = Pool(workers, time_limit=UNLIMITED)
        failed = run_on_ray(partial(IndexWorker, sides.run, store), missing, pool, watch)
    else:
        with one_thread():
            failed = run_here(IndexWorker(sides.run, sides.store, bar.advance), missing, watch)
    unbuilt = {part.folder for part in missing if part.folder not in watch.built}
    built = tuple(build.finish() for build in builds if unbuilt.isdisjoint(part.folder for part in build.parts))
    if unbuilt:
        raise JobError(describe_unbuilt(failed, given_up=len(unbuilt) > len(failed)))
    return built


@dataclass
class IndexWorker:
    """Builds parts of a run's indexes, in a Ray actor or in this process."""

    run: Run
    store: Store
    """As the command has opened it: what is removed meanwhile changes no row."""
    told: Callable[[int], None] | None = None
    """Hears how many rows were read, block by block."""

    def open(self) -> None:
        torch.set_num_threads(1)
        self._sides = Sides(self.run, self.store)

    def work(self, part: Part) -> None:
        if chosen_kind(part.config, len(part.ids)) == "rabitq":
            check_libraries()  # where one is missing, no other part can be built either
        try:
            part.build(self.vectors(part))
        except OSError as refused:
            raise unwritable(part.folder, refused) from None
        except (DataError, SearchIndexError, StoreError, RuntimeError) as problem:
            raise unworkable(problem) from problem

    def vectors(self, part: Part) -> Blocks:
        """(first row, float32[B, D]) of the part's rows, which alone are read, but for the losses behind residuals."""
        blocks = self._sides.training_vectors(estimator(part.metadata.estimator), part.rows)
        return blocks if self.told is None else _counted(blocks, self.told)


class IndexWatch(ProgressWatch[Part]):
    """Keeps the progress and the events of a build in parts."""

    def __init__(self, bar: Progress, parts: int) -> None:
        super().__init__(bar)
        self.built = set[Path]()
        """Folders of the parts that are done."""
        self._parts, self._rows = parts, bar.done

    def done(self, task: Part, result: object) -> None:  # noqa: ARG002 - the watch's signature
        self.built.add(task.folder)
        self._rows += len(task.ids)
        self.note = f"part {len(self.built):,}/{self._parts:,}, {task.metadata.estimator}"
        self.bar.advance(self._rows - self.bar.done, self.note)  # this process has counted the part's blocks before

    def retried(self, task: Part, reason: str) -> None:
        self.bar.tell("retried", estimator=task.metadata.estimator, part=task.folder.name, reason=reason)

    def set_aside(self, failed: SetAside[Part]) -> None:
        part = failed.task
        self.bar.tell("set_aside", estimator=part.metadata.estimator, part=part.folder.name, reason=failed.reason)


def describe_unbuilt(failed: Sequence[SetAside[Part]], *, given_up: bool) -> str:
    """The parts that could not be built, why, and what to do."""
    named = first_of(
        [
            f"{_named(part.task)} (rows {part.task.first:,} to {part.task.rows.stop - 1:,}; {part.reason})"
            for part in failed
        ]
    )
    rest = "too many failed to go on; what is built is kept" if given_up else "all other parts are built and kept"
    return (
        f"not built: {named}; {rest}. Mend what is named, or use fewer workers if memory is short, and run the "
        "same command again, which builds these parts alone"
    )


def _named(part: Part) -> str:
    return f"{part.folder.name} of {part.metadata.estimator}"


def _counted(blocks: Blocks, told: Callable[[int], None]) -> Blocks:
    for first, block in blocks:
        yield first, block
        told(len(block))
