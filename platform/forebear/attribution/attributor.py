"""A run, opened for questions: which training images does this picture descend from?"""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear.attribution.answer import Attribution, CheckpointRecord, Fingerprint, Influence
from forebear.attribution.groups import GroupColumn, group_columns
from forebear.attribution.indexes import open_index
from forebear.attribution.measuring import QueryEmbedder
from forebear.attribution.query import EmbeddedQuery, Picture, QueryConfig, picture_of
from forebear.attribution.report import ReportEntry, write_report
from forebear.config import parse
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.errors import ConfigError, SearchIndexError, StoreError
from forebear.estimators import ESTIMATORS, Estimator, estimator
from forebear.index import VectorIndex, best_rows
from forebear.run import Run
from forebear.store import Store

COMPARED = ("tracin", "retrac")
"""The estimators that every report sets side by side."""
DEFAULT_QUERY = QueryConfig()


class Attributor:
    """Answers queries from a run's store, indexes and checkpoints. Checkpoints are loaded by the first query."""

    def __init__(self, run: Run, store: Store, training_set: TrainingSet) -> None:
        self.run, self.store, self.training_set = run, store, training_set
        self._embedder = QueryEmbedder(run, store.plan)
        self._indexes: dict[str, VectorIndex] = {}

    @classmethod
    def open(cls, run_folder: str | PathLike[str], names: Sequence[str] | None = None) -> "Attributor":
        """Open a run; the indexes of `names` at once, others when they are first asked for.

        Raises ConfigError when the folder is not a run, StoreError when it has no whole store or its training images
        have changed, SearchIndexError when a named index, or every index, is missing.
        """
        run = Run(Path(run_folder))
        data = parse(DataConfig, run.section("data"), str(run.settings_file))
        store = Store.open(run.store_folder)
        training_set = open_training_set(data)
        if training_set.fingerprint != store.plan.dataset:
            raise StoreError(
                f"the training images of {run.folder} are not those that its store was made from; restore them, or "
                f"embed anew with `forebear embed --run {run.folder} --restart`"
            )
        attributor = cls(run, store, training_set)
        for name in names or ():
            attributor.index(name)
        if not names and not attributor.estimators:
            raise SearchIndexError(f"{run.folder} has no index; run `forebear index --run {run.folder}`")
        return attributor

    @property
    def estimators(self) -> tuple[str, ...]:
        """The estimators that this run has an index for."""
        return tuple(name for name in ESTIMATORS if name in self._indexes or self.run.index_folder(name).is_dir())

    @property
    def image_size(self) -> int:
        """Pixels along a side of the pictures that the model sees."""
        return self._embedder.image_size

    def index(self, name: str) -> VectorIndex:
        """The index of an estimator, opened once; raises what `open_index` raises."""
        if name not in self._indexes:
            self._indexes[name] = open_index(self.run, name, self.store.manifest)
        return self._indexes[name]

    def query_picture(self, image: Picture) -> Image.Image:
        """The query as an RGB picture, for a page; raises DataError when it is not one."""
        return picture_of(image)

    def attribute(
        self,
        image: Picture,
        caption: str = "",
        label: int | None = None,
        estimator: str = "retrac",
        top_k: int = 12,
        query: QueryConfig = DEFAULT_QUERY,
    ) -> Attribution:
        """The training images that most lowered, and most raised, the model's loss on a picture.

        `caption` is the prompt of a text-conditional model, `label` the class of a class-conditional one. Raises
        ForebearError of the kinds that `embed_query` and `score` raise.
        """
        self._check(estimator, top_k)
        return self.score(self.embed_query(image, caption, label, query), estimator, top_k)

    def attribute_all(
        self,
        image: Picture,
        caption: str = "",
        label: int | None = None,
        first: str = "retrac",
        top_k: int = 12,
        query: QueryConfig = DEFAULT_QUERY,
    ) -> tuple[Attribution, ...]:
        """The answer of estimator `first`, then those of TracIn and ReTrac where the run has their indexes.

        The picture is embedded once for all. Raises as `attribute` does.
        """
        self._check(first, top_k)
        names = dict.fromkeys([first, *(name for name in COMPARED if name in self.estimators)])
        embedded = self.embed_query(image, caption, label, query)
        return tuple(self.score(embedded, name, top_k) for name in names)

    def embed_query(
        self, image: Picture, caption: str = "", label: int | None = None, query: QueryConfig = DEFAULT_QUERY
    ) -> EmbeddedQuery:
        """Embed a picture at every checkpoint, once for every estimator.

        Raises DataError when it is not a picture, ModelError when the model needs a label, ConfigError for timesteps
        that the model does not have, StoreError when the weights are not those of the store.
        """
        return self._embedder.embed(image, caption, label, query)

    def score(self, embedded: EmbeddedQuery, estimator: str, top_k: int = 12) -> Attribution:
        """An estimator's answer for an embedded query.

        Raises ConfigError for an unknown estimator, or one that needs other timesteps; SearchIndexError when the run
        has no index for it.
        """
        started = time.perf_counter()
        method = self._check(estimator, top_k)
        self._check_timesteps(method, embedded)
        vector = method.query_vector(embedded.embeddings, self._weights)  # [1, C * k]
        scores = self.index(method.name).scores(vector)[0]  # [N]
        proponents, opponents = self._influences(scores, top_k)
        totals = {name: column.totals(scores) for name, column in self._groups.items()}
        return Attribution(
            estimator=method.name,
            description=method.description,
            proponents=proponents,
            opponents=opponents,
            group_totals=totals,
            query=embedded.record,
            fingerprint=self._fingerprint,
            seconds={"embed": embedded.seconds, "score": time.perf_counter() - started},
        )

    def report(self, path: str | PathLike[str], entries: Sequence[ReportEntry]) -> None:
        """Write answers about this run as one self-contained HTML page."""
        write_report(Path(path), entries, self.training_set)

    @property
    def _weights(self) -> list[float]:
        return [self.store.manifest.weights[name] for name in self.store.plan.checkpoint_names]

    @cached_property
    def _groups(self) -> Mapping[str, GroupColumn]:
        return group_columns(self.training_set.samples, self.training_set.group_names)

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        plan, weights = self.store.plan, self.store.manifest.weights
        return Fingerprint(
            run=self.run.folder.resolve().name,
            store_plan=plan.hash,
            dataset=plan.dataset,
            samples=plan.sample_count,
            checkpoints=tuple(
                CheckpointRecord(item.name, item.fingerprint, weights[item.name]) for item in plan.checkpoints
            ),
            measurement=plan.measurement,
        )

    def _check(self, name: str, top_k: int) -> Estimator:
        """The estimator, after everything that can be refused before a picture is embedded."""
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}; ask for at least 1 image")
        method = estimator(name)
        self.index(name)
        return method

    def _check_timesteps(self, method: Estimator, embedded: EmbeddedQuery) -> None:
        unmatched = set(embedded.record.timesteps) - set(self.store.plan.timesteps)
        if method.equal_timesteps and unmatched:
            raise ConfigError(
                f"{method.name} compares gradients at equal timesteps, and the store of {self.run.folder} has none at "
                f"timestep {min(unmatched)}; leave out timesteps and paper, or choose another estimator"
            )

    def _influences(
        self, scores: NDArray[np.float32], top_k: int
    ) -> tuple[tuple[Influence, ...], tuple[Influence, ...]]:
        """Proponents and opponents from scores float32[N]; equal scores go by rising row."""
        ascending = np.sort(scores)

        def ranked(rows: NDArray[np.int64]) -> tuple[Influence, ...]:
            lower = np.searchsorted(ascending, scores[rows], side="left")  # how many samples score less
            return tuple(
                Influence(
                    rank=rank,
                    sample_id=sample.id,
                    row=row,
                    score=float(scores[row]),
                    percentile=100.0 * int(below) / len(scores),
                    caption=sample.caption,
                    groups=dict(sample.groups),
                )
                for rank, (row, below) in enumerate(zip(rows.tolist(), lower, strict=True), start=1)
                for sample in [self.training_set.samples[row]]
            )

        return ranked(best_rows(scores, top_k)), ranked(best_rows(-scores, top_k))
