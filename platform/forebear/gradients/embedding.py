"""From pictures to embeddings: the gradient of a model's loss on each picture, reduced over timesteps.

Only parameters of the denoiser are attributed to. A text encoder's states are inputs here, computed without gradients.

Let gbar_t be the gradient of the loss at timestep t, averaged over the draws of its noise, and P the projection of the
engine:

    mean         = 1/T sum_t  P gbar_t                            Diffusion-TracIn (Xie et al., arXiv 2401.09031)
    unit_mean    = 1/T sum_t  P gbar_t / |P gbar_t|               Diffusion-ReTrac (the same paper)
    unit_matched = 1/sqrt(T) sum_t  H_t P gbar_t / |P gbar_t|     Forebear's own, `retrac-matched`

The paper divides by |gbar_t|, which is the same without a projection. With one, |P gbar_t| errs as the vector itself
does, and the errors cancel: cosines of similar pictures come out far closer (docs/gradients-benchmark.md, cosines
against those by reported norms).

With another scalar than the loss measured (diffusion.model.Measurement), gbar_t is its gradient:

    square_mean      = 1/T sum_t  P gbar_t                        `square`: D-TRAK (Zheng et al., arXiv 2311.00500)
    output_unit_mean = 1/T sum_t  P gbar_t / |P gbar_t|           `output`: DAS (arXiv 2410.18639, in its code)

H_t is a diagonal of random signs keyed by t. Signs of different timesteps are independent, so the expected inner
product of two `unit_matched` is the mean over t of the cosines at equal timesteps.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from forebear.diffusion.conditioning import Condition
from forebear.diffusion.measurement import Loss, Measurement
from forebear.diffusion.model import DiffusionModel, put_channels_last
from forebear.diffusion.noise import draw_noise
from forebear.errors import ConfigError, ForebearError
from forebear.gradients.columns import COLUMNS, VectorColumn
from forebear.gradients.coverage import cover
from forebear.gradients.engine import GradientBatch, GradientEngine
from forebear.gradients.projection import ProjectionConfig
from forebear.gradients.running import Precision
from forebear.randomness import keyed_signs

TINY = 1e-30
"""Vectors of a smaller norm are taken for zero."""


@dataclass(frozen=True)
class Draws:
    """At which (timestep, noise) each of B pictures is measured; D noises at each of T timesteps.

    The noise of picture b at its timestep t and draw d is `draw_noise` at the key (seeds[b], owners[b], t, d).
    """

    timesteps: NDArray[np.int64]
    """int64[B, T]."""
    owners: tuple[str, ...]
    """[B]: `diffusion.noise.SHARED`, or the sample's id for noise of its own."""
    seeds: NDArray[np.int64]
    """int64[B]."""
    draws: NDArray[np.int64]
    """int64[B, T, D]: draw numbers. Gradients are averaged over D before anything else is done to them."""
    weights: NDArray[np.float64] | None = None
    """float64[B, T]: the share of each timestep in the means over timesteps; None: 1 / T."""

    def __post_init__(self) -> None:
        """Raise ConfigError unless the shapes fit each other and nothing is empty."""
        shape = self.timesteps.shape
        fits = len(shape) == 2 and self.draws.ndim == 3 and self.draws.shape[:2] == shape
        if self.weights is not None and self.weights.shape != shape:
            raise ConfigError(
                f"weights {list(self.weights.shape)} do not fit timesteps {list(shape)}; give one for each"
            )
        if not fits or len(self.owners) != shape[0] or self.seeds.shape != shape[:1] or self.draws.size == 0:
            raise ConfigError(
                f"draws do not fit: timesteps {list(shape)}, {len(self.owners)} owners, seeds "
                f"{list(self.seeds.shape)}, draws {list(self.draws.shape)}; needed are [B, T], B, [B] and [B, T, D], "
                "none of them 0"
            )

    @classmethod
    def at(
        cls,
        timesteps: NDArray[np.int64],
        owners: Sequence[str],
        seed: int,
        draws: int = 1,
        weights: NDArray[np.float64] | None = None,
    ) -> "Draws":
        """The same timesteps int64[T], weights float64[T], seed and draws 0 .. draws - 1 for every owner."""
        count, steps = len(owners), len(timesteps)
        return cls(
            timesteps=np.tile(np.asarray(timesteps, np.int64), (count, 1)),
            owners=tuple(owners),
            seeds=np.full(count, seed, np.int64),
            draws=np.broadcast_to(np.arange(draws, dtype=np.int64), (count, steps, draws)).copy(),
            weights=None if weights is None else np.tile(np.asarray(weights, np.float64), (count, 1)),
        )


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of B pictures, float32."""

    vectors: Mapping[VectorColumn, NDArray[np.float32]]
    """[B, k] by column, for the measurements that were made."""
    norms: NDArray[np.float32]
    """[B, T]: norm of the loss gradient, averaged over draws, as GradientBatch.norms: exact in the mode `exact`. NaN
    when the loss gradient was not measured."""
    losses: NDArray[np.float32]
    """[B, T]: averaged over draws."""

    def column(self, name: VectorColumn) -> NDArray[np.float32]:
        """[B, k]; raises ConfigError when its measurement was not made."""
        try:
            return self.vectors[name]
        except KeyError:
            found = ", ".join(self.vectors) or "none"
            raise ConfigError(f"the picture was embedded without {name}, only {found}; name its estimator") from None

    def rows(self, first: int, end: int) -> "Embeddings":
        """Those of the pictures from `first` up to, and without, `end`."""
        return Embeddings(
            {name: vectors[first:end] for name, vectors in self.vectors.items()},
            self.norms[first:end],
            self.losses[first:end],
        )

    @property
    def mean(self) -> NDArray[np.float32]:
        return self.column("mean")

    @property
    def unit_mean(self) -> NDArray[np.float32]:
        return self.column("unit_mean")

    @property
    def unit_matched(self) -> NDArray[np.float32]:
        return self.column("unit_matched")


class Embedder:
    """Embeds pictures under one set of weights.

    `patterns` select parameters of the denoiser, as in GradientEngine; of these, gradients of `part` alone are taken,
    the names of some. `batch_size` counts denoised rows, one for each picture, timestep and draw; it changes results by
    rounding alone. Raises ConfigError when the projection is larger than the gradient, and what GradientEngine raises.
    """

    def __init__(
        self,
        model: DiffusionModel,
        projection: ProjectionConfig,
        *,
        patterns: Sequence[str] = ("*",),
        part: Sequence[str] | None = None,
        loss: Loss = "mse",
        precision: Precision = "float32",
        batch_size: int = 32,
    ) -> None:
        self._model, self._loss, self._batch_size = model, loss, batch_size
        _check_dim(model, projection, patterns)
        put_channels_last(model.denoiser)
        self.engine = GradientEngine(model.denoiser, projection, part or patterns, precision=precision)
        self._device = next(model.denoiser.parameters()).device
        self._seed = 0 if projection.dim is None else projection.seed  # a whole gradient has no seed
        # Enough for a query's timesteps; recorded events have up to all of them.
        self._signs_at = lru_cache(maxsize=128)(self._draw_signs)

    @property
    def dim(self) -> int:
        """k: numbers in a vector."""
        return self.engine.dim

    def embed(
        self,
        x0: Tensor,
        condition: Condition,
        draws: Draws,
        *,
        measurements: Sequence[Measurement] = ("loss",),
        mask: Tensor | None = None,
    ) -> Embeddings:
        """Embed clean pictures x0 float[B, c, h, w] with the conditions of B rows.

        Each of `measurements` costs one gradient pass for every picture, timestep and draw. `mask` float[h, w] in
        [0, 1] weights the elements of the measurements, losses among them.

        Batches are cut from the B x T measurements in one fixed way: on a CPU the same call gives the same bits, unless
        memory runs out. Then batches are halved for the rest of the call, with a warning. A gradient of norm 0 gives a
        vector of zeros. Raises ConfigError when B, a timestep or the mask does not fit, and ForebearError when a
        gradient is not finite or memory is short for a single measurement.
        """
        self._check(x0, draws, measurements, mask)
        x0 = x0.detach().to(self._device)
        mask = None if mask is None else mask.detach().float().to(self._device)
        count, steps = draws.timesteps.shape
        sums = _Sums(measurements, count, self.dim, self._device)
        norms, losses = np.full((count, steps), np.nan, np.float32), np.empty((count, steps), np.float32)
        start, size = 0, max(1, self._batch_size // draws.draws.shape[2])
        halved = False
        while start < count * steps:
            places, columns = _batch(count, steps, start, size)
            found = self._measure(_Batch(x0, condition, draws, places, columns, mask), measurements)
            if found is None:
                size, halved = _halved(len(places), draws.draws.shape[2]), True
                continue
            start += len(places)
            losses[places, columns] = found.losses.cpu().numpy()
            if "loss" in found.gradients:
                norms[places, columns] = found.gradients["loss"].norms.cpu().numpy()
            shares = None if draws.weights is None else draws.weights[places, columns] * steps
            signs = self._timestep_signs(draws.timesteps[places, columns]) if "loss" in measurements else None
            sums.add(found.gradients, places, shares, signs)
        if halved:
            rows = size * draws.draws.shape[2]
            warnings.warn(f"memory ran out; batches of {rows} fit: choose that size from the start", stacklevel=2)
        return Embeddings(sums.means(steps), norms, losses)

    def _measure(self, batch: "_Batch", measurements: Sequence[Measurement]) -> "_Found | None":
        """The gradients of one batch; None when memory is too short for it, with what it held given back."""
        try:
            return self._gradients(batch, measurements)
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem):
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _gradients(self, batch: "_Batch", measurements: Sequence[Measurement]) -> "_Found":
        """Measures U pictures at their timesteps, in D rows each."""
        draws, places, columns = batch.draws, batch.places, batch.columns
        each = int(draws.draws.shape[2])
        picture = np.repeat(places, each)  # [U * D]
        timesteps = np.repeat(draws.timesteps[places, columns], each)  # [U * D]
        noise = self._noise(draws, picture, timesteps, draws.draws[places, columns].reshape(-1)).to(self._device)
        at = torch.from_numpy(timesteps).to(self._device)
        index = torch.from_numpy(picture)
        known = batch.condition.rows(index)
        clean = batch.x0[index]  # [U * D, c, h, w]
        losses: list[Tensor] = []

        def measure(measurement: Measurement) -> GradientBatch:
            def rows() -> Tensor:
                values, lost = self._model.measured(measurement, clean, at, noise, known, self._loss, batch.mask)
                losses.append(lost / each)
                # The gradient of the mean over draws is wanted, and the engine adds up the rows of a group.
                return values / each

            return self.engine.measure(rows, group=each)

        gradients = {measurement: measure(measurement) for measurement in measurements}
        return _Found(gradients, losses[0].reshape(-1, each).sum(1))

    def _noise(
        self, draws: Draws, picture: NDArray[np.int64], timesteps: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> Tensor:
        """Noise float32[R, c, h, w]; rows with one key are drawn once, which is most of them when noise is shared."""
        keys = [
            (int(draws.seeds[b]), draws.owners[b], int(t), int(d))
            for b, t, d in zip(picture, timesteps, numbers, strict=True)
        ]
        drawn = {
            key: draw_noise(self._model.x0_shape, key[0], [key[1]], [key[2]], [key[3]])[0]
            for key in dict.fromkeys(keys)
        }
        return torch.stack([drawn[key] for key in keys])

    def _timestep_signs(self, timesteps: NDArray[np.int64]) -> Tensor:
        """The diagonals of H_t for U timesteps: int8[U, k]."""
        return torch.stack([self._signs_at(int(t)) for t in timesteps])

    def _draw_signs(self, timestep: int) -> Tensor:
        signs = keyed_signs(self.dim, "timestep", self._seed, timestep)
        return torch.from_numpy(signs).to(self._device)

    def _check(self, x0: Tensor, draws: Draws, measurements: Sequence[Measurement], mask: Tensor | None) -> None:
        if not measurements or len(set(measurements)) != len(measurements):
            raise ConfigError(f"measurements are {list(measurements)}; name at least one, and each only once")
        if mask is not None and (mask.shape != x0.shape[2:] or not bool(((mask >= 0) & (mask <= 1)).all())):
            raise ConfigError(f"a mask must be [{x0.shape[2]}, {x0.shape[3]}] in [0, 1], got {list(mask.shape)}")
        if x0.shape != (len(draws.owners), *self._model.x0_shape):
            raise ConfigError(
                f"{len(draws.owners)} pictures of shape {list(self._model.x0_shape)} are needed, got {list(x0.shape)}"
            )
        if draws.timesteps.min() < 0 or draws.timesteps.max() >= self._model.total_timesteps:
            raise ConfigError(
                f"timesteps must lie between 0 and {self._model.total_timesteps - 1}, "
                f"got {draws.timesteps.min()} to {draws.timesteps.max()}"
            )


@dataclass(frozen=True)
class _Batch:
    """U of the B x T measurements of one call: pictures `places` at their timesteps `columns`."""

    x0: Tensor
    condition: Condition
    draws: Draws
    places: NDArray[np.int64]
    columns: NDArray[np.int64]
    mask: Tensor | None


@dataclass(frozen=True)
class _Found:
    gradients: Mapping[Measurement, GradientBatch]
    losses: Tensor
    """float32[U]."""


class _Sums:
    """The columns of B pictures, summed over timesteps."""

    def __init__(self, measurements: Sequence[Measurement], count: int, dim: int, device: torch.device) -> None:
        self._sums = {
            column: torch.zeros(count, dim, device=device)
            for measurement in measurements
            for column in COLUMNS[measurement]
        }

    def add(
        self,
        gradients: Mapping[Measurement, GradientBatch],
        places: NDArray[np.int64],
        shares: NDArray[np.float64] | None,
        signs: Tensor | None,
    ) -> None:
        """Add the gradients of U measurements, each times its share; signs [U, k] are the diagonals of H_t."""
        for measurement, found in gradients.items():
            index = torch.from_numpy(places).to(found.vectors.device)  # [U]
            vectors, units = found.vectors, F.normalize(found.vectors, eps=TINY)  # [U, k]
            if shares is not None:
                scale = torch.from_numpy(shares.astype(np.float32)).to(vectors.device)[:, None]  # [U, 1]
                vectors, units = vectors * scale, units * scale
            for column in COLUMNS[measurement]:
                if column == "unit_matched" and signs is not None:
                    self._sums[column].index_add_(0, index, units * signs)
                else:
                    self._sums[column].index_add_(0, index, units if "unit" in column else vectors)

    def means(self, steps: int) -> dict[VectorColumn, NDArray[np.float32]]:
        return {
            column: (total / (steps**0.5 if column == "unit_matched" else steps)).cpu().numpy()
            for column, total in self._sums.items()
        }


def _check_dim(model: DiffusionModel, projection: ProjectionConfig, patterns: Sequence[str]) -> None:
    """Asked before the engine is made, because it tests its projection, which takes long when dim is huge."""
    count = sum(share.numel for share in cover(model.denoiser, patterns)[0].covered)
    if projection.dim is not None and projection.dim > count:
        raise ConfigError(
            f"projection dim {projection.dim} is larger than the gradient itself, which has {count} numbers; choose a "
            "smaller dim, or null to keep the whole gradient"
        )


def _batch(count: int, steps: int, start: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The next at most `size` of all (picture, timestep column) pairs, from the `start`th: two int64[U].

    A timestep's pictures come one after the other, so that a batch shares timesteps and with them shared noise.
    """
    columns, places = np.divmod(np.arange(start, min(start + size, count * steps)), count)
    return places, columns


def out_of_memory(problem: Exception) -> bool:
    """CUDA's allocator has an error of its own; the CPU's is told by its text, which depends on the system."""
    texts = ("not enough memory", "can't allocate memory", "cannot allocate memory")
    known = isinstance(problem, torch.OutOfMemoryError | MemoryError)
    return known or any(text in str(problem).lower() for text in texts)


def _halved(size: int, each: int) -> int:
    """Half of a batch of `size` pictures with `each` rows; raises ForebearError when there is no half."""
    if size == 1:
        rows = "one row" if each == 1 else f"one picture with its {each} draws"
        raise ForebearError(
            f"memory is too short for a batch of {rows}; free some, use fewer workers or draws, a smaller model, or a "
            "machine with more memory"
        )
    return size // 2
