"""How well projected gradients tell pictures apart, against whole gradients from autograd, one sample at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from gradient_bench.models import Batch
from gradient_bench.variants import Sketch

TOP = 5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gram:
    """What is known of n gradients at one timestep."""

    inner: Array
    """[n, n]."""
    norms: Array
    """[n]: the norms as they were reported; those of the projections themselves unless something else was."""

    @classmethod
    def of(cls, vectors: torch.Tensor, norms: torch.Tensor | None = None) -> "Gram":
        """Of vectors [n, k]."""
        inner = (vectors @ vectors.T).double().numpy()
        return cls(inner, inner.diagonal() ** 0.5 if norms is None else norms.double().numpy())

    @property
    def cosines(self) -> Array:
        """Of the projections themselves."""
        lengths = self.inner.diagonal() ** 0.5
        found: Array = self.inner / np.outer(lengths, lengths)
        return found

    @property
    def scaled(self) -> Array:
        """Inner products over the norms as reported: estimates of the same cosines."""
        found: Array = self.inner / np.outer(self.norms, self.norms)
        return found


@dataclass(frozen=True)
class Fidelity:
    """Agreement over pairs of pictures at one timestep; of several, the mean."""

    inner_spearman: float
    inner_pearson: float
    cosine_spearman: float
    cosine_pearson: float
    cosine_error: float
    """Root mean square."""
    scaled_spearman: float
    """Of inner products over reported norms, with the true cosines."""
    top: float
    """Share of each picture's TOP nearest by cosine that are among the true ones."""
    norm_error: float
    """Standard deviation of estimated / true norm over pictures."""


def exact(batch: Batch) -> Gram:
    """Of every parameter's gradient, by one backward pass for each sample."""
    parameters = [parameter.requires_grad_(True) for parameter in batch.model.denoiser.parameters()]
    rows = []
    for row in range(len(batch.x0)):
        only = slice(row, row + 1)
        one = Batch(batch.model, batch.x0[only], batch.timesteps[only], batch.noise[only])
        found = torch.autograd.grad(one.losses().sum(), parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return Gram.of(torch.stack(rows))


def compare(found: Gram, true: Gram) -> Fidelity:
    pairs = np.triu_indices(len(true.norms), 1)
    inner, true_inner = found.inner[pairs], true.inner[pairs]
    cosines, true_cosines = found.cosines[pairs], true.cosines[pairs]
    return Fidelity(
        inner_spearman=float(spearmanr(inner, true_inner).statistic),
        inner_pearson=float(pearsonr(inner, true_inner).statistic),
        cosine_spearman=float(spearmanr(cosines, true_cosines).statistic),
        cosine_pearson=float(pearsonr(cosines, true_cosines).statistic),
        cosine_error=float(np.sqrt(np.mean((cosines - true_cosines) ** 2))),
        scaled_spearman=float(spearmanr(found.scaled[pairs], true_cosines).statistic),
        top=_top_overlap(found.cosines, true.cosines),
        norm_error=float(np.std(found.norms / true.norms)),
    )


def _top_overlap(found: Array, true: Array) -> float:
    def nearest(cosines: Array) -> NDArray[np.int64]:
        others = cosines - 3 * np.eye(len(cosines))  # a picture is not its own neighbour
        return np.argsort(-others, axis=1)[:, :TOP]

    both = zip(nearest(found), nearest(true), strict=True)
    return fmean(len(set(one.tolist()) & set(other.tolist())) / TOP for one, other in both)


def mean_of(several: Sequence[Fidelity]) -> Fidelity:
    return Fidelity(**{field.name: fmean(getattr(one, field.name) for one in several) for field in fields(Fidelity)})


def summary(at: Mapping[int, Sequence[Fidelity]]) -> dict[str, Any]:
    """Of the fidelities at each timestep, one for each projection seed: the mean, and what varies with the timestep."""
    everything = [one for several in at.values() for one in several]
    by_timestep = {str(t): fmean(one.cosine_spearman for one in several) for t, several in at.items()}
    return {**asdict(mean_of(everything)), "cosine_spearman_by_timestep": by_timestep}


def measure(
    batches: Mapping[int, Batch], truths: Mapping[int, Gram], sketch: Sketch, seeds: int, rows: int
) -> dict[str, Any]:
    """`summary` of a sketch over the timesteps that are the keys."""
    at: dict[int, list[Fidelity]] = {timestep: [] for timestep in batches}
    for seed in range(seeds):
        engine = sketch.engine(next(iter(batches.values())).model.denoiser, seed)
        for timestep, batch in batches.items():
            parts = [engine.measure(part.losses) for part in _cut(batch, rows)]
            vectors, norms = (torch.cat([getattr(part, name) for part in parts]) for name in ("vectors", "norms"))
            at[timestep].append(compare(Gram.of(vectors, norms), truths[timestep]))
    return summary(at)


def _cut(batch: Batch, rows: int) -> list[Batch]:
    parts = [slice(start, start + rows) for start in range(0, len(batch.x0), rows)]
    return [Batch(batch.model, batch.x0[part], batch.timesteps[part], batch.noise[part]) for part in parts]
