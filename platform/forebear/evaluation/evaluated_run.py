"""A run opened for evaluation: queries embedded once and kept, and every estimator's exact scores for them."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.answer import QueryRecord
from forebear.attribution.curvature import matrix_bytes
from forebear.attribution.measuring import QueryEmbedder
from forebear.attribution.opening import open_embedded
from forebear.attribution.query import EmbeddedQuery, QueryConfig
from forebear.attribution.scoring import StoreScorer
from forebear.config import plain
from forebear.data import TrainingSet
from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear.estimators import ESTIMATORS, MEASUREMENTS, estimator
from forebear.files import fingerprint, whole_file
from forebear.gradients.embedding import Embeddings
from forebear.progress import progress
from forebear.run import Run
from forebear.store import Store

BASELINES = ("pixel", "random")
"""In every evaluation, whatever is asked for."""
HALF_BYTES, SCALE_BYTES = 2, 4
"""Of a number and of a vector's scale in the store."""


@dataclass(frozen=True)
class Asked:
    """A query before it is embedded."""

    id: str
    pixels: NDArray[np.float32]
    """float32[C, H, W] in [-1, 1], of the model's size."""
    caption: str = ""
    label: int | None = None


class EvaluatedRun:
    """A run with a whole store. The model is loaded when it is first needed."""

    def __init__(self, run: Run, store: Store, training_set: TrainingSet) -> None:
        self.run, self.store, self.training_set = run, store, training_set
        self.scoring_seconds: dict[str, float] = {}
        """By estimator: of the last call of `scores`, for all of its queries."""
        self._embedder = QueryEmbedder(run, store.plan)
        self._scorer = StoreScorer(run, store, training_set)
        self.sides = self._scorer.sides

    @classmethod
    def open(cls, run: Run) -> "EvaluatedRun":
        """Raises ConfigError when it is not a run, StoreError when its store is not whole or of other images."""
        return cls(run, *open_embedded(run))

    @cached_property
    def model(self) -> DiffusionModel:
        return DiffusionModel.load(self.run.model_folder)

    def estimators(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Those asked for, or all that the store can serve when none is; the baselines `pixel` and `random` always.

        `embedding`, whose queries need vectors of their own, is never among them. Raises ConfigError for an unknown
        estimator, or one that the store does not serve.
        """
        for name in asked:
            if name == "embedding":
                raise ConfigError("evaluations make their own queries, which have no features; leave `embedding` out")
            self.sides.check(estimator(name))
        chosen = asked or [name for name, one in ESTIMATORS.items() if name != "embedding" and self.sides.holds(one)]
        return tuple(dict.fromkeys([*chosen, *BASELINES]))

    def pixels(self, row: int) -> NDArray[np.float32]:
        """A training picture as the model sees it: float32[C, H, W]."""
        (found,) = self.training_set.pixels([row], self.model.image_size, self.model.image_channels)
        return np.asarray(found)

    def asked(self, row: int) -> Asked:
        """A training picture as a query, with its own caption and label."""
        sample = self.training_set.samples[row]
        return Asked(sample.id, self.pixels(row), sample.caption, sample.label)

    def embed(
        self, queries: Sequence[Asked], estimators: Sequence[str], config: QueryConfig | None = None
    ) -> list[EmbeddedQuery]:
        """Embed what is not kept yet for these estimators, one file for each query in RUN/evaluation/queries."""
        config = config or QueryConfig()
        found = []
        with progress("embedding", len(queries), "queries") as bar:
            for query in queries:
                found.append(self._embedded(query, estimators, config))
                bar.advance(1, query.id)
        return found

    def scores(self, name: str, queries: Sequence[EmbeddedQuery], ridge: float | None = None) -> NDArray[np.float64]:
        """float64[Q, N]."""
        started = time.perf_counter()
        found = self._scorer.scores(name, queries, ridge if ESTIMATORS[name].ridge is not None else None)
        self.scoring_seconds[name] = time.perf_counter() - started
        return found

    def facts(self, queries: Sequence[EmbeddedQuery], estimators: Sequence[str]) -> dict[str, Any]:
        """What every result says: the run, and each estimator's cost."""
        plan = self.store.plan
        return {
            "run": self.run.folder.resolve().name,
            "samples": len(self.training_set),
            "dataset": plan.dataset,
            "store_plan": plan.hash,
            "checkpoints": list(plan.checkpoint_names),
            "timesteps": plan.timesteps_per_sample,
            "draws": plan.draws,
            "dim": plan.dim,
            "queries": len(queries),
            "costs": {name: self.cost(name, queries) for name in estimators},
        }

    def cost(self, name: str, queries: Sequence[EmbeddedQuery]) -> dict[str, float]:
        """Seconds of embedding a picture and of scoring it against all samples, and bytes that a sample takes.

        Measurements share the time of embedding equally, as each is one gradient pass. A training sample takes the time
        of a query that is measured at as many timesteps.
        """
        method = estimator(name)
        vectors = 1 if method.baseline else len(self.store.plan.checkpoints)
        bytes_per_sample = HALF_BYTES * self.sides.dim(method) + SCALE_BYTES * vectors
        seconds = 0.0
        if queries and queries[0].embeddings and method.measurement is not None:
            made = {MEASUREMENTS[column] for column in queries[0].embeddings[0].vectors}
            seconds = float(np.median([query.seconds for query in queries])) / len(made)
        scoring = self.scoring_seconds.get(name, 0.0) / max(1, len(queries))
        curvature = 0 if method.ridge is None else matrix_bytes(self.store) * vectors
        return {
            "embedding_seconds": seconds,
            "scoring_seconds": scoring,
            "bytes_per_sample": bytes_per_sample,
            "curvature_bytes": curvature,
        }

    def _embedded(self, query: Asked, estimators: Sequence[str], config: QueryConfig) -> EmbeddedQuery:
        key = fingerprint(
            {
                "plan": self.store.plan.hash,
                "pixels": hashlib.sha256(np.ascontiguousarray(query.pixels).tobytes()).hexdigest(),
                "shape": list(query.pixels.shape),
                "caption": query.caption,
                "label": query.label,
                "config": plain(config),
                "measurements": sorted({str(estimator(name).measurement) for name in estimators} - {"None"}),
            }
        )
        path = self.run.folder / "evaluation" / "queries" / f"{key}.npz"
        kept = _read(path)
        if kept is not None:
            return kept
        embedded = self._embedder.embed(query.pixels, query.caption, query.label, config, estimators=estimators)
        with whole_file(path) as part, part.open("wb") as handle:
            np.savez(handle, **_arrays(embedded))
        return embedded


def _arrays(query: EmbeddedQuery) -> Mapping[str, Any]:
    said = {"record": asdict(query.record), "seconds": query.seconds}
    arrays: dict[str, Any] = {"said": np.array(json.dumps(said)), "pixels": query.pixels}
    for place, embeddings in enumerate(query.embeddings):
        arrays |= {f"{place}:vectors:{column}": rows for column, rows in embeddings.vectors.items()}
        arrays |= {f"{place}:norms": embeddings.norms, f"{place}:losses": embeddings.losses}
    return arrays


def _read(path: Path) -> EmbeddedQuery | None:
    """The query in the file; None when there is none, or it is damaged and has to be made again."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            arrays = dict(loaded)
        said = json.loads(str(arrays.pop("said")))
        pixels = arrays.pop("pixels")
        places = sorted({int(name.partition(":")[0]) for name in arrays})
        embeddings = tuple(
            Embeddings(
                {
                    name.rpartition(":")[2]: rows
                    for name, rows in arrays.items()
                    if name.startswith(f"{place}:vectors:")
                },
                arrays[f"{place}:norms"],
                arrays[f"{place}:losses"],
            )
            for place in places
        )
        record = said["record"]
        losses = {name: tuple(values) for name, values in record["losses"].items()}
        listed = {name: tuple(record[name]) for name in ("timesteps", "preliminary", "parameters") if name in record}
        whole = {**record, **listed, "losses": losses}
        return EmbeddedQuery(embeddings, QueryRecord(**whole), said["seconds"], pixels)
    except (OSError, ValueError, KeyError, TypeError, BadZipFile):
        return None
