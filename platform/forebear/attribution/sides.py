"""The two sides of an estimator's inner product, fetched from a run: rows of training images and rows of queries."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from forebear.attribution.curvature import build_curvature, has_curvature, open_curvature
from forebear.attribution.features import read_features
from forebear.attribution.measuring import missing_measurement
from forebear.attribution.opening import live_training_set, open_whole
from forebear.attribution.query import EmbeddedQuery
from forebear.data import TrainingSet
from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear.estimators import MEASUREMENTS, Blocks, Curvature, Estimator, residuals
from forebear.randomness import keyed_normal
from forebear.run import Run
from forebear.store import Store

PIXEL_SIDE = 32
"""`pixel` compares pictures reduced to this side: what remains beyond it is texture, and vectors stay short."""
LARGEST_CURVATURE = 16384
"""Most numbers in a vector for an estimator with a ridge: its matrix takes 2 GiB then."""
KEYED_DIM = 64
"""Numbers in the vectors of `random`."""
BLOCK_ROWS = 256


class Sides:
    """Where every estimator's rows come from, for the training images and for queries of one run.

    Row i is that of the store's i-th sample that was not removed, as the store gives them, and so is the training set's
    (`open_embedded`). The training set is opened when a baseline first needs it, unless it is given.
    """

    def __init__(self, run: Run, store: Store, training_set: TrainingSet | None = None) -> None:
        self.run, self.store = run, store
        self._given = training_set
        self._curvatures: dict[str, tuple[Curvature, ...]] = {}

    def check(self, method: Estimator) -> None:
        """Raise ConfigError with the remedy when the run does not hold what the estimator reads."""
        if method.column == "features":
            read_features(self.run, self.store.plan.dataset)
        elif not method.baseline and method.column not in self.store.plan.columns:
            needed = MEASUREMENTS[method.column]
            raise ConfigError(missing_measurement(method.name, needed, self.store.plan.columns, self.run))
        if method.ridge is not None and self.store.plan.dim > LARGEST_CURVATURE:
            raise ConfigError(
                f"{method.name} inverts a matrix of {self.store.plan.dim:,} rows, at most {LARGEST_CURVATURE:,} are "
                f"possible; embed with smaller vectors: `forebear embed --dim 4096 --run {self.run.folder} --restart`, "
                "or ask for an estimator without a ridge, such as retrac"
            )

    def holds(self, method: Estimator) -> bool:
        """Whether `check` passes."""
        try:
            self.check(method)
        except ConfigError:
            return False
        return True

    def weights(self, method: Estimator) -> list[float]:
        """w_c of each part that is concatenated; a baseline has one part."""
        if method.baseline:
            return [1.0]
        return [self.store.manifest.weights[name] for name in self.store.plan.checkpoint_names]

    def dim(self, method: Estimator) -> int:
        """Numbers in a concatenated vector."""
        if method.column == "keyed":
            return KEYED_DIM
        if method.column == "features":
            return int(read_features(self.run, self.store.plan.dataset).shape[1])
        if method.column == "pixels":
            return int(np.prod(reduced_pixels(np.zeros((1, *self.picture_shape), np.float32)).shape))
        return len(self.store.plan.checkpoints) * self.store.plan.dim

    def blocks(self, method: Estimator, rows: slice | None = None) -> list[Blocks]:
        """The training rows of each part, as Estimator.training_vectors takes them: all, or a slice's alone."""
        self.check(method)
        if method.column == "pixels":
            return [self._pixel_blocks(rows)]
        if method.column == "keyed":
            return [self._keyed_blocks(rows)]
        if method.column == "features":
            return [self._feature_blocks(rows)]
        return [self.store.blocks(name, method.column, rows) for name in self.store.plan.checkpoint_names]

    def training_vectors(self, method: Estimator, rows: slice | None = None) -> Blocks:
        """phi of all samples, or of a slice of them, (first row, float32[B, D]) in order; the same ones either way."""
        return method.training_vectors(self.blocks(method, rows), self.weights(method), self.residuals(method))

    def residuals(self, method: Estimator) -> list[NDArray[np.float64]] | None:
        """float64[N] of each checkpoint, where the estimator uses them."""
        return self._residuals if method.residual else None

    def curvatures(self, method: Estimator, *, build: bool = False) -> tuple[Curvature, ...] | None:
        """Of each checkpoint, where the estimator has a ridge; `build` makes those that are missing.

        Raises SearchIndexError when they are missing and not to be built.
        """
        if method.ridge is None:
            return None
        self.check(method)
        if method.column not in self._curvatures:
            if build:
                build_curvature(self.run, self.store, method.column)
            remedy = f"run `forebear index --run {self.run.folder} --estimator {method.name}`"
            self._curvatures[method.column] = open_curvature(self.run, self.store, method.column, remedy)
        return self._curvatures[method.column]

    def has_curvatures(self, method: Estimator) -> bool:
        """Whether the estimator needs no curvature, or the run holds it."""
        return method.ridge is None or has_curvature(self.run, self.store, method.column)

    def query_parts(self, method: Estimator, queries: Sequence[EmbeddedQuery]) -> list[NDArray[np.float32]]:
        """The rows of Q queries in each part: float32[Q, k].

        Raises ConfigError when a query was not embedded for this estimator or brings no features.
        """
        if method.column == "pixels":
            return [np.stack([reduced_pixels(query.pixels[None])[0] for query in queries])]
        if method.column == "keyed":
            return [
                np.stack([_keyed("query", hashlib.sha256(query.pixels.tobytes()).hexdigest()) for query in queries])
            ]
        if method.column == "features":
            return [np.stack([self._features_of(query) for query in queries])]
        column = method.column
        return [
            np.concatenate([query.embeddings[place].column(column) for query in queries])
            for place in range(len(self.store.plan.checkpoints))
        ]

    def query_vector(
        self, method: Estimator, queries: Sequence[EmbeddedQuery], ridge: float | None = None
    ) -> NDArray[np.float32]:
        """psi of Q queries for the estimator's index: float32[Q, D]. Raises as `curvatures` and `query_parts` do."""
        curvatures = self.curvatures(method)
        return method.query_vector(self.query_parts(method, queries), self.weights(method), curvatures, ridge)

    def _features_of(self, query: EmbeddedQuery) -> NDArray[np.float32]:
        width = read_features(self.run, self.store.plan.dataset).shape[1]
        if query.features is None or query.features.shape != (width,):
            raise ConfigError(f"`embedding` needs the query's own feature vector of {width} numbers; pass features")
        return query.features.astype(np.float32)

    def _cut(self, rows: slice | None) -> Iterator[range]:
        """All rows, or a slice's, a block at a time."""
        wanted = range(len(self.store))[rows or slice(None)]
        return (wanted[start : start + BLOCK_ROWS] for start in range(0, len(wanted), BLOCK_ROWS))

    def _pixel_blocks(self, rows: slice | None) -> Iterator[tuple[int, NDArray[np.float32]]]:
        channels, size, _ = self.picture_shape
        for block in self._cut(rows):
            yield block.start, reduced_pixels(self._training_set.pixels(block, size, channels))

    def _keyed_blocks(self, rows: slice | None) -> Iterator[tuple[int, NDArray[np.float32]]]:
        ids = self.store.ids()
        for block in self._cut(rows):
            yield block.start, np.stack([_keyed("sample", ids[row]) for row in block])

    def _feature_blocks(self, rows: slice | None) -> Iterator[tuple[int, NDArray[np.float32]]]:
        features, kept = read_features(self.run, self.store.plan.dataset), self.store.kept
        for block in self._cut(rows):
            own = slice(block.start, block.stop)
            yield block.start, np.asarray(features[own if kept is None else kept[own]])

    @cached_property
    def _residuals(self) -> list[NDArray[np.float64]]:
        return [residuals(self.store.losses(name)) for name in self.store.plan.checkpoint_names]

    @cached_property
    def _training_set(self) -> TrainingSet:
        if self._given is not None:
            return self._given
        return live_training_set(self.store, open_whole(self.run)[1])

    @cached_property
    def picture_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the pictures that the model sees."""
        model = DiffusionModel.load(self.run.model_folder)
        return model.image_channels, model.image_size, model.image_size


def reduced_pixels(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[B, C, H, W] to at most PIXEL_SIDE on a side, flat: float32[B, C * h * w]."""
    small = torch.from_numpy(np.ascontiguousarray(pixels))
    if small.shape[-1] > PIXEL_SIDE:
        small = F.adaptive_avg_pool2d(small, PIXEL_SIDE)
    return small.flatten(1).numpy()


def _keyed(kind: str, key: str) -> NDArray[np.float32]:
    return keyed_normal((KEYED_DIM,), "random estimator", kind, key)
