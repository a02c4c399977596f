"""The queries of evaluations: training pictures chosen by key, or pictures that the run's own model makes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forebear.diffusion.sampling import generate
from forebear.errors import ConfigError
from forebear.evaluation.evaluated_run import Asked, EvaluatedRun
from forebear.evaluation.queries import AT_ONCE
from forebear.progress import progress
from forebear.randomness import Key, keyed_permutation


def training_rows(evaluated: EvaluatedRun, count: int, *key: Key) -> list[int]:
    """`count` rows chosen by key, whatever the order of the training set; raises ConfigError when there are fewer."""
    samples = evaluated.training_set.samples
    if count > len(samples):
        raise ConfigError(f"{count} queries are asked for, the training set has {len(samples)} images; ask for fewer")
    by_id = sorted(range(len(samples)), key=lambda row: samples[row].id)
    return [by_id[place] for place in keyed_permutation(len(samples), *key)[:count].tolist()]


def training_queries(evaluated: EvaluatedRun, rows: Sequence[int]) -> list[Asked]:
    return [evaluated.asked(row) for row in rows]


def generated_queries(
    evaluated: EvaluatedRun, rows: Sequence[int], *, seed: int, steps: int, guidance: float
) -> list[Asked]:
    """A picture for the caption and label of each row, with the seeds `seed`, `seed` + 1 ...

    They are made by the run's last model; equal arguments give equal pictures.
    """
    samples = [evaluated.training_set.samples[row] for row in rows]
    seeds = range(seed, seed + len(samples))
    pieces: list[NDArray[np.float32]] = []
    with progress("generating", len(samples), "pictures") as bar:
        for start in range(0, len(samples), AT_ONCE):
            part = samples[start : start + AT_ONCE]
            pixels = generate(
                evaluated.model,
                [sample.caption for sample in part],
                [sample.label for sample in part],
                seeds[start : start + AT_ONCE],
                steps=steps,
                guidance=guidance,
            )
            pieces.append(pixels.numpy())
            bar.advance(len(part))
    return [
        Asked(f"generated-{number:05d}", pixels, sample.caption, sample.label)
        for number, pixels, sample in zip(seeds, np.concatenate(pieces), samples, strict=True)
    ]
