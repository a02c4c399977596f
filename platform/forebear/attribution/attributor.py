"""A run, opened for questions: which training images does this picture descend from?"""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear.attribution.answer import (
    Attribution,
    CheckpointRecord,
    Fingerprint,
    GroupTotal,
    Influence,
    Memorisation,
)
from forebear.attribution.auditing import DEFAULT_AUDIT, AuditConfig
from forebear.attribution.calibration import Calibration, calibrate
from forebear.attribution.indexes import LiveIndex, indexed, live_index, open_index
from forebear.attribution.live import LiveRun
from forebear.attribution.measuring import QueryEmbedder
from forebear.attribution.memorisation import CopyDetector, GradientNearest
from forebear.attribution.noise_level import Band, within
from forebear.attribution.opening import open_whole
from forebear.attribution.query import Captioned, EmbeddedQuery, Picture, QueryConfig, picture_of
from forebear.attribution.region import Mask, Region, region_of
from forebear.attribution.report import write_report
from forebear.attribution.report_views import ReportEntry
from forebear.attribution.significance import examined
from forebear.attribution.timesteps import contributions
from forebear.data import TrainingSet
from forebear.errors import ConfigError, SearchIndexError
from forebear.estimators import DEFAULT_ESTIMATOR, Estimator, index_name
from forebear.estimators import estimator as estimator_named
from forebear.index import SearchIndex, best_rows
from forebear.run import Run
from forebear.store import Store

COMPARED = ("tracin", "retrac")
"""The estimators that every report sets side by side."""
COPY_ESTIMATORS = ("retrac-matched", "cosine")
"""Whose scores are cosines: the first that the run has an index for tells near copies."""
DEFAULT_QUERY = QueryConfig()


class Attributor:
    """Answers queries from a run's store, indexes and checkpoints. Checkpoints are loaded by the first query.

    Samples that were removed (`forebear store remove`) are in no answer, also when that happens while the run is open.
    `training_set` still has their rows, those of the whole store.
    """

    def __init__(
        self, run: Run, store: Store, training_set: TrainingSet, *, allow_low_recall: bool = False, threads: int = 1
    ) -> None:
        """`training_set` is that of `open_whole`; a query is measured at `threads` checkpoints at a time."""
        self.run, self.training_set = run, training_set
        self._embedder = QueryEmbedder(run, store.plan, ThreadPoolExecutor(threads).map if threads > 1 else map)
        self._indexes: dict[str, SearchIndex] = {}
        self._allow_low_recall = allow_low_recall
        self._known = LiveRun.of(run, store, training_set)

    @classmethod
    def open(
        cls,
        run_folder: str | PathLike[str],
        names: Sequence[str] | None = None,
        *,
        allow_low_recall: bool = False,
        threads: int = 1,
    ) -> "Attributor":
        """Open a run; the indexes of `names` at once, others when they are first asked for.

        A single query is measured at `threads` checkpoints at a time while cores are idle; its numbers stay the same.

        Raises ConfigError when the folder is not a run, StoreError when it has no whole store or its training images
        have changed, SearchIndexError when a named index, or every index, is missing, or an index finds less of the
        true best than its floor and `allow_low_recall` is not set.
        """
        run = Run(Path(run_folder))
        attributor = cls(run, *open_whole(run), allow_low_recall=allow_low_recall, threads=threads)
        for name in names or ():
            attributor.index(name)
        if not names and not attributor.estimators:
            raise SearchIndexError(f"{run.folder} has no index; run `forebear index --run {run.folder}`")
        return attributor

    @property
    def store(self) -> Store:
        """Without the samples that are removed by now."""
        return self._live().store

    @property
    def estimators(self) -> tuple[str, ...]:
        """The estimators that this run has an index for."""
        return indexed(self.run, self.store)

    @property
    def fingerprint(self) -> Fingerprint:
        """What answers given now depend on."""
        return self._fingerprint(self._live())

    @property
    def image_size(self) -> int:
        """Pixels along a side of the pictures that the model sees."""
        return self._embedder.image_size

    def index(self, name: str) -> SearchIndex:
        """The index of an estimator, opened once; raises what `open_index` raises."""
        owner = index_name(name)
        if owner not in self._indexes:
            self._indexes[owner] = open_index(
                self.run, name, self.store.manifest, allow_low_recall=self._allow_low_recall
            )
        return self._indexes[owner]

    def query_picture(self, image: Picture) -> Image.Image:
        """The query as an RGB picture, for a page; raises DataError when it is not one."""
        return picture_of(image)

    def attribute(
        self,
        image: Picture,
        caption: str = "",
        label: int | None = None,
        estimator: str = DEFAULT_ESTIMATOR,
        top_k: int = 12,
        query: QueryConfig = DEFAULT_QUERY,
        *,
        mask: Mask | None = None,
        band: Band | None = None,
        features: NDArray[np.float32] | None = None,
        audit: AuditConfig | None = DEFAULT_AUDIT,
    ) -> Attribution:
        """The training images that most lowered, and most raised, the model's loss on a picture.

        `caption` is the prompt of a text-conditional model, `label` the class of a class-conditional one. `mask` is the
        part of the picture to ask about (`region_of`), `band` the first and last timestep to measure at, `features` the
        picture's own vector for the estimator `embedding`. `audit` None leaves out intervals, p-values, percentiles
        against the null and the search for near copies. Raises ForebearError of the kinds that `embed_query` and
        `score` raise.
        """
        self._check(estimator, top_k, self._live())
        embedded = self.embed_query(
            image, caption, label, query, mask=mask, band=band, features=features, estimators=[estimator],
            by_timestep=audit is not None,
        )  # fmt: skip
        return self.score(embedded, estimator, top_k, audit, self.examine_copies(embedded, audit))

    def attribute_all(
        self,
        image: Picture,
        caption: str = "",
        label: int | None = None,
        first: str = DEFAULT_ESTIMATOR,
        top_k: int = 12,
        query: QueryConfig = DEFAULT_QUERY,
        *,
        regions: Sequence[Mask] = (),
        band: Band | None = None,
        audit: AuditConfig | None = DEFAULT_AUDIT,
    ) -> tuple[Attribution, ...]:
        """The answer of estimator `first`, then those of TracIn and ReTrac where the run has their indexes.

        After them comes the answer of `first` for each of `regions`. The picture is embedded once for all estimators,
        and once for each region. Raises as `attribute` does.
        """
        self._check(first, top_k, self._live())
        parts = [self.region(mask, image) for mask in regions]  # refused before anything is embedded
        names = list(dict.fromkeys([first, *(name for name in COMPARED if name in self.estimators)]))
        apart = audit is not None
        whole = self.embed_query(image, caption, label, query, band=band, estimators=names, by_timestep=apart)
        copies = self.examine_copies(whole, audit)
        answers = [self.score(whole, name, top_k, audit, copies) for name in names]
        for part in parts:
            embedded = self.embed_query(
                image, caption, label, query, mask=part, band=band, estimators=[first], by_timestep=apart
            )
            answers.append(self.score(embedded, first, top_k, audit))
        return tuple(answers)

    def embed_query(
        self,
        image: Picture,
        caption: str = "",
        label: int | None = None,
        query: QueryConfig = DEFAULT_QUERY,
        *,
        mask: Mask | Region | None = None,
        band: Band | None = None,
        features: NDArray[np.float32] | None = None,
        estimators: Sequence[str] | None = None,
        by_timestep: bool = True,
        checkpoints: Collection[str] | None = None,
    ) -> EmbeddedQuery:
        """Embed a picture at every checkpoint, once for the named estimators; None: for all that the store serves.

        `by_timestep` keeps what intervals need. `checkpoints` names those to embed at, where the others' part is made
        apart (`EmbeddedQuery.completed`). Raises DataError when it is not a picture, ModelError when the model
        needs a label, ConfigError for timesteps that the model does not have, a band without any, or a mask that does
        not fit, StoreError when the weights are not those of the store.
        """
        if band is not None:
            query = within(query, band, self.store.plan, self._embedder.total_timesteps)
        part = mask if mask is None or isinstance(mask, Region) else self.region(mask, image)
        embedded = self._embedder.embed(
            image,
            caption,
            label,
            query,
            estimators=estimators,
            mask=None if part is None else part.mask,
            features=features,
            by_timestep=by_timestep,
            checkpoints=checkpoints,
        )
        record = replace(embedded.record, region=None if part is None else part.record, band=band)
        return replace(embedded, record=record)

    def embed_queries(
        self,
        pictures: Sequence[Captioned],
        query: QueryConfig = DEFAULT_QUERY,
        *,
        band: Band | None = None,
        estimators: Sequence[str] | None = None,
        by_timestep: bool = True,
    ) -> tuple[EmbeddedQuery, ...]:
        """Several whole pictures at once: each as `embed_query` gives it, up to rounding, in less time together.

        Raises as `embed_query` does when one of them cannot be embedded.
        """
        if band is not None:
            query = within(query, band, self.store.plan, self._embedder.total_timesteps)
        found = self._embedder.embed_all(pictures, query, estimators=estimators, by_timestep=by_timestep)
        return tuple(replace(one, record=replace(one.record, band=band)) for one in found)

    def band(self, first: int | None = None, last: int | None = None) -> Band:
        """A band of timesteps whose open ends are the model's own."""
        return (0 if first is None else first), (self._embedder.total_timesteps - 1 if last is None else last)

    def timesteps(self, query: QueryConfig = DEFAULT_QUERY) -> tuple[int, ...]:
        """At which a query of this kind is measured."""
        return query.placed_timesteps(self.store, self._embedder.total_timesteps)[0]

    def region(self, mask: Mask, image: Picture) -> Region:
        """A region of a query picture; raises what `region_of` raises."""
        return region_of(mask, image, self.image_size)

    def score(
        self,
        embedded: EmbeddedQuery,
        estimator: str,
        top_k: int = 12,
        audit: AuditConfig | None = DEFAULT_AUDIT,
        memorisation: Memorisation | None = None,
    ) -> Attribution:
        """An estimator's answer for an embedded query; `memorisation` is what `examine_copies` found, if it was asked.

        Raises ConfigError for an unknown estimator, or one that needs other timesteps; SearchIndexError when the run
        has no index for it.
        """
        started = time.perf_counter()
        live = self._live()
        method = self._check(estimator, top_k, live)
        self._check_embedded(method, embedded)
        scores = self._scores(method, [embedded], live)[0]  # [N]
        totals: Mapping[str, tuple[GroupTotal, ...]]
        totals = {name: column.totals(scores) for name, column in live.groups.items()}
        scored = time.perf_counter()
        statistics, null = None, None
        if audit is not None:
            null = self._calibration(live, method.name, audit) if audit.references else None
            if totals:
                steps = (
                    None
                    if method.baseline or not audit.resamples
                    else self._contributions(method, embedded, scores, live)
                )
                totals, statistics = examined(totals, live.groups, scores, steps, audit)
        proponents, opponents = self._influences(live, scores, top_k, null)
        return Attribution(
            estimator=method.name,
            description=method.description,
            proponents=proponents,
            opponents=opponents,
            group_totals=totals,
            query=embedded.record,
            fingerprint=self._fingerprint(live),
            seconds={"embed": embedded.seconds, "score": scored - started, "audit": time.perf_counter() - scored},
            group_statistics=statistics,
            calibration=None if null is None else null.record,
            memorisation=memorisation,
        )

    def examine_copies(self, embedded: EmbeddedQuery, audit: AuditConfig | None = DEFAULT_AUDIT) -> Memorisation | None:
        """Whether the query is a near copy of a training image; None when the audit has no references.

        The first call decodes every training image and compares the references with all of them, unless the run holds
        that already. Gradients take part where the query was measured as the store's samples were.
        """
        if audit is None or not audit.references:
            return None
        live = self._live()
        channels, size, _ = embedded.pixels.shape
        gradients = self._nearest_gradients(live, embedded, audit)
        found = self._detector(live, audit, channels, size).examine(embedded.pixels, gradients)
        rows = live.store_rows(np.array([one.row for one in found.nearest], np.int64)).tolist()
        nearest = tuple(replace(one, row=row) for one, row in zip(found.nearest, rows, strict=True))
        return replace(found, nearest=nearest)

    def calibration(self, name: str, audit: AuditConfig = DEFAULT_AUDIT) -> Calibration:
        """The null of an estimator, computed when it is first needed and then kept in the run."""
        return self._calibration(self._live(), name, audit)

    def prepare(self, names: Sequence[str] | None = None, audit: AuditConfig = DEFAULT_AUDIT) -> None:
        """Compute ahead what the answers of the named estimators need, or of all, so that no query waits for it."""
        for name in names or self.estimators:
            self.calibration(name, audit)
        live = self._live()
        channels, size, _ = self._embedder.picture_shape or live.sides.picture_shape
        self._detector(live, audit, channels, size)

    def load(self, query: QueryConfig = DEFAULT_QUERY) -> None:
        """Load the checkpoints now, so that the first query of this kind does not wait for it.

        Raises StoreError when one is gone or has other weights than the store was made with, and ConfigError for
        parameters of which the store covers none.
        """
        self._embedder.load(query.parameters)

    def measures_apart(self, pattern: str) -> bool:
        """Whether gradients of parameters whose names match can be measured alone or, after a `!`, left out.

        The store must cover one of them, and must not hold whole gradients. Loads a checkpoint.
        """
        return self._embedder.apart(pattern)

    def report(self, path: str | PathLike[str], entries: Sequence[ReportEntry]) -> None:
        """Write answers about this run as one self-contained HTML page.

        Raises ConfigError when an answer names a sample that was removed since it was given.
        """
        removed = self._live().store.left_out
        for answer in (answer for entry in entries for answer in entry.attributions):
            named = {one.sample_id for one in (*answer.proponents, *answer.opponents)}
            named |= {one.sample_id for one in answer.memorisation.nearest} if answer.memorisation else set()
            if gone := sorted(named & removed):
                raise ConfigError(f"{gone[0]} was removed after this answer was given; attribute the picture again")
        write_report(Path(path), entries, self.training_set)

    def _live(self) -> LiveRun:
        """What is known of the run by now."""
        self._known = self._known.current()
        return self._known

    @staticmethod
    def _fingerprint(live: LiveRun) -> Fingerprint:
        plan, weights = live.store.plan, live.store.manifest.weights
        return Fingerprint(
            run=live.run.folder.resolve().name,
            store_plan=plan.hash,
            dataset=plan.dataset,
            samples=len(live.store),
            checkpoints=tuple(
                CheckpointRecord(item.name, item.fingerprint, weights[item.name]) for item in plan.checkpoints
            ),
            measurement=plan.measurement,
            removed=live.store.removed,
        )

    def _check(self, name: str, top_k: int, live: LiveRun) -> Estimator:
        """The estimator, after everything that can be refused before a picture is embedded."""
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}; ask for at least 1 image")
        if not len(live.store):
            raise ConfigError(f"every image of {self.run.folder} is removed; see `forebear store restore --help`")
        method = estimator_named(name)
        live.sides.check(method)
        self._searched(live, name)
        live.sides.curvatures(method)
        return method

    def _check_embedded(self, method: Estimator, embedded: EmbeddedQuery) -> None:
        if embedded.embeddings and embedded.checkpoints != self.store.plan.checkpoint_names:
            raise ConfigError(
                f"the query was embedded at {', '.join(embedded.checkpoints)} alone, and the store has "
                f"{', '.join(self.store.plan.checkpoint_names)}; embed it at the others too"
            )
        unmatched = set(embedded.record.timesteps) - set(self.store.plan.timesteps)
        if method.equal_timesteps and unmatched:
            raise ConfigError(
                f"{method.name} compares gradients at equal timesteps, and the store of {self.run.folder} has none at "
                f"timestep {min(unmatched)}; leave out timesteps and paper, or choose another estimator"
            )

    def _searched(self, live: LiveRun, name: str) -> LiveIndex:
        owner = index_name(name)
        if owner not in live.indexes:
            live.indexes[owner] = live_index(self.index(name), live.store)
        return live.indexes[owner]

    def _scores(
        self, method: Estimator, queries: Sequence[EmbeddedQuery], live: LiveRun | None = None
    ) -> NDArray[np.float32]:
        """float32[Q, N]."""
        live = live or self._live()
        return self._searched(live, method.name).scores(live.sides.query_vector(method, queries))

    def _contributions(
        self, method: Estimator, embedded: EmbeddedQuery, scores: NDArray[np.float32], live: LiveRun | None = None
    ) -> NDArray[np.float64] | None:
        """Of each timestep to the scores: float64[T, N], where there are several."""
        return contributions(embedded, scores, lambda queries: self._scores(method, queries, live))

    def _calibration(self, live: LiveRun, name: str, audit: AuditConfig) -> Calibration:
        key = name, audit.references, audit.seed
        if key not in live.calibrations:
            index = self._searched(live, name)
            live.calibrations[key] = calibrate(self.run, live.sides, estimator_named(name), index, audit)
        return live.calibrations[key]

    @staticmethod
    def _detector(live: LiveRun, audit: AuditConfig, channels: int, size: int) -> CopyDetector:
        if audit not in live.detectors:
            live.detectors[audit] = CopyDetector(live.run, live.training_set, channels, size, audit)
        return live.detectors[audit]

    def _nearest_gradients(self, live: LiveRun, embedded: EmbeddedQuery, audit: AuditConfig) -> GradientNearest | None:
        """The gradient measure of near copies, when the query was measured exactly as the samples were."""
        plan, record = live.store.plan, embedded.record
        measured = record.timesteps, record.draws, record.region, record.parameters
        alike = measured == (plan.timesteps, plan.draws, None, ())
        if not alike or not embedded.embeddings or record.seed != plan.settings.get("seed"):
            return None
        for name in COPY_ESTIMATORS:
            method = estimator_named(name)
            if name in self.estimators and method.column in embedded.embeddings[0].vectors:
                weight = float(sum(live.sides.weights(method)))
                scores = self._scores(method, [embedded], live)[0]
                return GradientNearest(name, scores, weight, self._calibration(live, name, audit))
        return None

    @staticmethod
    def _influences(
        live: LiveRun, scores: NDArray[np.float32], top_k: int, null: Calibration | None
    ) -> tuple[tuple[Influence, ...], tuple[Influence, ...]]:
        """Proponents and opponents from scores float32[N]; equal scores go by rising row."""
        ascending = np.sort(scores)

        def ranked(rows: NDArray[np.int64]) -> tuple[Influence, ...]:
            lower = np.searchsorted(ascending, scores[rows], side="left")  # how many samples score less
            against = [None] * len(rows) if null is None else _numbers(null.percentiles(scores, rows))
            return tuple(
                Influence(
                    rank=rank,
                    sample_id=sample.id,
                    row=int(live.store_rows(np.array(row))),
                    score=float(scores[row]),
                    percentile=100.0 * int(below) / len(scores),
                    caption=sample.caption,
                    groups=dict(sample.groups),
                    null_percentile=usual,
                )
                for rank, (row, below, usual) in enumerate(zip(rows.tolist(), lower, against, strict=True), start=1)
                for sample in [live.training_set.samples[row]]
            )

        return ranked(best_rows(scores, top_k)), ranked(best_rows(-scores, top_k))


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
