"""How well projected gradients rank pairs of pictures, against their whole gradients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.gradients.diagnosis import Measure, engine_of_several, plain_gradients
from forebear.gradients.engine import GradientEngine
from forebear.gradients.projection import Mode, ProjectionConfig
from forebear.gradients.running import Precision
from forebear.jobs.doctor_subject import Subject

DIMS = (1024, 2048, 4096, 8192)
HUGE = 2**20
"""Length of the exact mode's vectors that stand in for whole gradients which do not fit in memory."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gram:
    """What is known of N gradients at one timestep."""

    inner: Array
    """[N, N]."""
    norms: Array
    """[N]."""

    @classmethod
    def of(cls, vectors: Tensor, norms: Tensor) -> "Gram":
        return cls((vectors @ vectors.T).double().cpu().numpy(), norms.double().cpu().numpy())

    @property
    def cosines(self) -> Array:
        scale = np.outer(self.norms, self.norms)
        return np.divide(self.inner, scale, out=np.zeros_like(self.inner), where=scale > 0)


@dataclass(frozen=True)
class Setting:
    """A projection and the precision that the network runs in."""

    mode: Mode
    dim: int | None
    precision: Precision


@dataclass(frozen=True)
class Fidelity:
    """Agreement of one setting with whole gradients, over pairs of pictures at equal timesteps."""

    setting: Setting
    inner: float
    """Spearman's rank correlation of inner products: the mean over timesteps."""
    cosine: float
    """The same of cosines."""
    lowest: float
    """The lowest of both at any timestep."""
    cosine_error: float
    """Root mean square error of cosines: pictures whose cosines differ by less than about three of it are not told
    apart."""
    norm_spread: float
    """Standard deviation of estimated / true norm over pictures and timesteps."""
    norm_largest: float
    """Largest |estimated / true norm - 1|."""


def spearman(one: Array, other: Array) -> float:
    """Spearman's rank correlation of two [n], ties at their mean rank; not a number where all values are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Array) -> Array:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def compare(setting: Setting, found: Sequence[Gram], true: Sequence[Gram]) -> Fidelity:
    """Agreement at each timestep, put together."""
    pairs = np.triu_indices(len(true[0].norms), 1)
    inner = [spearman(a.inner[pairs], b.inner[pairs]) for a, b in zip(found, true, strict=True)]
    cosine = [spearman(a.cosines[pairs], b.cosines[pairs]) for a, b in zip(found, true, strict=True)]
    errors = [(a.cosines - b.cosines)[pairs] for a, b in zip(found, true, strict=True)]
    estimated, known = (np.concatenate([gram.norms for gram in grams]) for grams in (found, true))
    ratios = estimated[known > 0] / known[known > 0]
    return Fidelity(
        setting=setting,
        inner=fmean(inner),
        cosine=fmean(cosine),
        lowest=float(np.min([*inner, *cosine])),
        cosine_error=float(np.sqrt(np.mean(np.square(errors)))),
        norm_spread=float(ratios.std()),
        norm_largest=float(np.abs(ratios - 1).max()),
    )


def truths(subject: Subject, names: Sequence[str], patterns: Sequence[str], folded: bool) -> Iterator[Gram]:
    """At each timestep, from plain autograd; `folded` takes the engine's exact mode with HUGE numbers instead."""
    denoiser = subject.model.denoiser
    for timestep in subject.timesteps:
        measure = subject.at(timestep)
        if folded:
            config = ProjectionConfig(dim=HUGE, mode="exact")
            engine = GradientEngine(denoiser, config, patterns, allow_uncovered=True)
            yield Gram.of(*_measured(engine, measure, len(subject), 1))
        else:
            vectors = plain_gradients(denoiser, names, measure, len(subject))
            yield Gram.of(vectors, vectors.norm(dim=1))


def measured(
    subject: Subject, patterns: Sequence[str], mode: Mode, dims: Sequence[int | None], precision: Precision, rows: int
) -> dict[Setting, list[Gram]]:
    """Of each length in `dims`, the Gram of each timestep, `rows` pictures at a time. None goes alone."""
    denoiser, seed = subject.model.denoiser, subject.config.projection.seed
    lengths = [dim for dim in dims if dim is not None]
    if lengths:
        engine = engine_of_several(denoiser, mode, lengths, seed, patterns, precision)
    else:
        whole = ProjectionConfig(dim=None, mode=mode)
        engine = GradientEngine(denoiser, whole, patterns, precision=precision, allow_uncovered=True)
    found: dict[Setting, list[Gram]] = {Setting(mode, dim, precision): [] for dim in dims}
    for timestep in subject.timesteps:
        vectors, norms = _measured(engine, subject.at(timestep), len(subject), rows)
        parts = torch.split(vectors, lengths, 1) if lengths else (vectors,)
        for setting, part in zip(found, parts, strict=True):
            found[setting].append(Gram.of(part, norms))
    return found


def _measured(engine: GradientEngine, measure: Measure, count: int, rows: int) -> tuple[Tensor, Tensor]:
    """Vectors [N, k] and norms [N]."""
    run: Callable[[slice], Callable[[], Tensor]] = lambda part: lambda: measure(part)  # noqa: E731
    parts = [engine.measure(run(slice(start, min(start + rows, count)))) for start in range(0, count, rows)]
    return torch.cat([part.vectors for part in parts]), torch.cat([part.norms for part in parts])
