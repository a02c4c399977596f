"""How well projected gradients tell pictures apart, against whole gradients from autograd, one sample at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch

from forebear.gradients.diagnosis import plain_gradients
from forebear.gradients.fidelity import Agreement, Gram, compare, mean_of
from gradient_bench.models import Batch
from gradient_bench.variants import Sketch


def exact(batch: Batch) -> Gram:
    """Of every parameter's gradient, by one backward pass for each sample."""
    denoiser = batch.model.denoiser
    names = [name for name, _ in denoiser.named_parameters()]
    return Gram.of(plain_gradients(denoiser, names, lambda rows: batch.part(rows).losses(), len(batch.x0)))


def summary(at: Mapping[int, Sequence[Agreement]]) -> dict[str, Any]:
    """Of the fidelities at each timestep, one for each projection seed: the mean, and what varies with the timestep."""
    everything = [one for several in at.values() for one in several]
    by_timestep = {str(t): fmean(one.cosine_spearman for one in several) for t, several in at.items()}
    return {**asdict(mean_of(everything)), "cosine_spearman_by_timestep": by_timestep}


def measure(
    batches: Mapping[int, Batch], truths: Mapping[int, Gram], sketch: Sketch, seeds: int, rows: int
) -> dict[str, Any]:
    """`summary` of a sketch over the timesteps that are the keys."""
    at: dict[int, list[Agreement]] = {timestep: [] for timestep in batches}
    for seed in range(seeds):
        engine = sketch.engine(next(iter(batches.values())).model.denoiser, seed)
        for timestep, batch in batches.items():
            starts = range(0, len(batch.x0), rows)
            parts = [engine.measure(batch.part(slice(start, start + rows)).losses) for start in starts]
            vectors, norms = (torch.cat([getattr(part, name) for part in parts]) for name in ("vectors", "norms"))
            at[timestep].append(compare(Gram.of(vectors, norms), truths[timestep]))
    return summary(at)
