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

H_t is a diagonal of random signs keyed by t. Signs of different timesteps are independent, so the expected inner
product of two `unit_matched` is the mean over t of the cosines at equal timesteps.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel, Loss
from forebear.diffusion.noise import draw_noise
from forebear.errors import ConfigError, ForebearError
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

    def __post_init__(self) -> None:
        """Raise ConfigError unless the shapes fit each other and nothing is empty."""
        shape = self.timesteps.shape
        fits = len(shape) == 2 and self.draws.ndim == 3 and self.draws.shape[:2] == shape
        if not fits or len(self.owners) != shape[0] or self.seeds.shape != shape[:1] or self.draws.size == 0:
            raise ConfigError(
                f"draws do not fit: timesteps {list(shape)}, {len(self.owners)} owners, seeds "
                f"{list(self.seeds.shape)}, draws {list(self.draws.shape)}; needed are [B, T], B, [B] and [B, T, D], "
                "none of them 0"
            )

    @classmethod
    def at(cls, timesteps: NDArray[np.int64], owners: Sequence[str], seed: int, draws: int = 1) -> "Draws":
        """The same timesteps int64[T], seed and draws 0 .. draws - 1 for every owner."""
        count, steps = len(owners), len(timesteps)
        return cls(
            timesteps=np.tile(np.asarray(timesteps, np.int64), (count, 1)),
            owners=tuple(owners),
            seeds=np.full(count, seed, np.int64),
            draws=np.broadcast_to(np.arange(draws, dtype=np.int64), (count, steps, draws)).copy(),
        )


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of B pictures, float32."""

    mean: NDArray[np.float32]
    """[B, k]."""
    unit_mean: NDArray[np.float32]
    """[B, k]."""
    unit_matched: NDArray[np.float32]
    """[B, k]."""
    norms: NDArray[np.float32]
    """[B, T]: norm of the gradient, averaged over draws, as GradientBatch.norms: exact in the mode `exact`."""
    losses: NDArray[np.float32]
    """[B, T]: averaged over draws."""


class Embedder:
    """Embeds pictures under one set of weights.

    `patterns` select parameters of the denoiser, as in GradientEngine. `batch_size` counts denoised rows, one for each
    picture, timestep and draw; it changes results by rounding alone. Raises ConfigError when the projection is larger
    than the gradient, and what GradientEngine raises.
    """

    def __init__(
        self,
        model: DiffusionModel,
        projection: ProjectionConfig,
        *,
        patterns: Sequence[str] = ("*",),
        loss: Loss = "mse",
        precision: Precision = "float32",
        batch_size: int = 32,
    ) -> None:
        self._model, self._loss, self._batch_size = model, loss, batch_size
        _check_dim(model, projection, patterns)
        self.engine = GradientEngine(model.denoiser, projection, patterns, precision=precision)
        self._device = next(model.denoiser.parameters()).device
        self._seed = 0 if projection.dim is None else projection.seed  # a whole gradient has no seed
        # Enough for a query's timesteps; recorded events have up to all of them.
        self._signs_at = lru_cache(maxsize=128)(self._draw_signs)

    @property
    def dim(self) -> int:
        """k: numbers in a vector."""
        return self.engine.dim

    def embed(self, x0: Tensor, condition: Condition, draws: Draws) -> Embeddings:
        """Embed clean pictures x0 float[B, c, h, w] with the conditions of B rows.

        Batches are cut from the B x T measurements in one fixed way: on a CPU the same call gives the same bits, unless
        memory runs out. Then batches are halved for the rest of the call, with a warning. A gradient of norm 0 gives a
        vector of zeros. Raises ConfigError when B or a timestep does not fit, and ForebearError when a gradient is not
        finite or memory is short for a single measurement.
        """
        self._check(x0, draws)
        x0 = x0.detach().to(self._device)
        count, steps = draws.timesteps.shape
        mean = torch.zeros(count, self.dim, device=self._device)  # [B, k]
        unit_mean, unit_matched = torch.zeros_like(mean), torch.zeros_like(mean)  # [B, k]
        norms, losses = np.empty((count, steps), np.float32), np.empty((count, steps), np.float32)
        start, size = 0, max(1, self._batch_size // draws.draws.shape[2])
        halved = False
        while start < count * steps:
            places, columns = _batch(count, steps, start, size)
            measured = self._measure(x0, condition, draws, places, columns)
            if measured is None:
                size, halved = _halved(len(places), draws.draws.shape[2]), True
                continue
            start += len(places)
            norms[places, columns] = measured.norms.cpu().numpy()
            losses[places, columns] = measured.values.cpu().numpy()
            index = torch.from_numpy(places).to(self._device)  # [U]
            units = F.normalize(measured.vectors, eps=TINY)  # [U, k]
            mean.index_add_(0, index, measured.vectors)
            unit_mean.index_add_(0, index, units)
            unit_matched.index_add_(0, index, units * self._timestep_signs(draws.timesteps[places, columns]))
        if halved:
            rows = size * draws.draws.shape[2]
            warnings.warn(f"memory ran out; batches of {rows} fit: choose that size from the start", stacklevel=2)
        return Embeddings(
            mean=(mean / steps).cpu().numpy(),
            unit_mean=(unit_mean / steps).cpu().numpy(),
            unit_matched=(unit_matched / steps**0.5).cpu().numpy(),
            norms=norms,
            losses=losses,
        )

    def _measure(
        self, x0: Tensor, condition: Condition, draws: Draws, places: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> GradientBatch | None:
        """The gradients of one batch; None when memory is too short for it, with what it held given back."""
        try:
            rows = self._rows(x0, condition, draws, places, columns)
            return self.engine.measure(rows, group=draws.draws.shape[2])
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem):
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _rows(
        self, x0: Tensor, condition: Condition, draws: Draws, places: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> Callable[[], Tensor]:
        """Measures U pictures `places` at their timesteps `columns`, in D rows each: losses / D, float32[U * D]."""
        each = int(draws.draws.shape[2])
        picture = np.repeat(places, each)  # [U * D]
        timesteps = np.repeat(draws.timesteps[places, columns], each)  # [U * D]
        noise = self._noise(draws, picture, timesteps, draws.draws[places, columns].reshape(-1)).to(self._device)
        at = torch.from_numpy(timesteps).to(self._device)
        index = torch.from_numpy(picture)
        known = condition.rows(index)
        clean = x0[index]  # [U * D, c, h, w]

        def measurement() -> Tensor:
            # The gradient of the mean over draws is wanted, and the engine adds up the rows of a group.
            return self._model.per_sample_loss(clean, at, noise, known, self._loss) / each

        return measurement

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

    def _check(self, x0: Tensor, draws: Draws) -> None:
        if x0.shape != (len(draws.owners), *self._model.x0_shape):
            raise ConfigError(
                f"{len(draws.owners)} pictures of shape {list(self._model.x0_shape)} are needed, got {list(x0.shape)}"
            )
        if draws.timesteps.min() < 0 or draws.timesteps.max() >= self._model.total_timesteps:
            raise ConfigError(
                f"timesteps must lie between 0 and {self._model.total_timesteps - 1}, "
                f"got {draws.timesteps.min()} to {draws.timesteps.max()}"
            )


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
