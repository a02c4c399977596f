"""How far a quantised generator's temporal features are from the full-precision ones, at each module and timestep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.diffusion.model import DiffusionModel
from forebear_generators.quantisation.comparison import step_features
from forebear_generators.quantisation.temporal import mismatched

Floats = NDArray[np.float64]
CLASSES = 8
"""Labels, at most, over which errors are averaged."""


@dataclass(frozen=True)
class TemporalErrors:
    """Errors of the features of M modules at the S steps of a sampler."""

    modules: tuple[str, ...]
    times: tuple[float, ...]
    relative: Floats
    """||f - fhat|| / ||f||: float64[M, S]."""
    cosine: Floats
    """1 - cosine: float64[M, S]."""
    mismatched: Floats
    """1 where the nearest full-precision feature of the module is of another step (of classes: the share): [M, S]."""


def temporal_errors(
    full: DiffusionModel, quantised: DiffusionModel, times: tuple[float, ...], labels: Sequence[int | None]
) -> TemporalErrors:
    """The means over the first CLASSES of the labels, of models whose features depend on a class."""
    known: list[int | None] = [*sorted({label for label in labels if label is not None})[:CLASSES]]
    found = [
        feature_differences(step_features(full, times, label), step_features(quantised, times, label))
        for label in known or [None]
    ]
    modules = tuple(found[0])
    relative, cosine, mismatched = (
        np.mean([[each[name][place] for name in modules] for each in found], 0) for place in range(3)
    )
    return TemporalErrors(modules, times, relative, cosine, mismatched)


def feature_differences(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Relative error, 1 - cosine and mismatches of features [S, C_i] by module: each float64[S]."""
    differences = {}
    for name in wanted:
        full, other = wanted[name].double(), found[name].double()
        relative = (other - full).norm(dim=1) / full.norm(dim=1)
        cosine = 1.0 - torch.cosine_similarity(other, full, dim=1)
        differences[name] = (relative.numpy(), cosine.numpy(), mismatched(full, other).double().numpy())
    return differences
