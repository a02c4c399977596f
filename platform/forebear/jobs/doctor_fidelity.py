"""How well the vectors of one setting after the other rank pairs of the subject's pictures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from forebear.gradients.diagnosis import EngineOfSeveral, Measure, plain_gradients
from forebear.gradients.engine import GradientEngine
from forebear.gradients.fidelity import Agreement, Gram, compare, mean_of, norm_ratios
from forebear.gradients.projection import Mode, ProjectionConfig
from forebear.gradients.running import Precision
from forebear.jobs.doctor_subject import Subject

DIMS = (1024, 2048, 4096, 8192)
HUGE = 2**20
"""Length of the exact mode's vectors that stand in for whole gradients which do not fit in memory."""


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
    mean: Agreement
    """Over timesteps."""
    lowest: float
    """The lowest Spearman of inner products or cosines at any timestep."""
    norm_largest: float
    """Largest |reported / true norm - 1|."""

    @classmethod
    def of(cls, setting: Setting, found: Sequence[Gram], true: Sequence[Gram]) -> "Fidelity":
        """From the Gram of each timestep."""
        at = [compare(one, other) for one, other in zip(found, true, strict=True)]
        ratios = np.concatenate([norm_ratios(one, other) for one, other in zip(found, true, strict=True)])
        return cls(
            setting=setting,
            mean=mean_of(at),
            lowest=float(np.min([(one.inner_spearman, one.cosine_spearman) for one in at])),
            norm_largest=float(np.abs(ratios - 1).max(initial=0.0)),
        )


def truths(subject: Subject, names: Sequence[str], patterns: Sequence[str], folded: bool) -> Iterator[Gram]:
    """At each timestep, from plain autograd; `folded` takes the engine's exact mode with HUGE numbers instead."""
    denoiser = subject.model.denoiser
    for timestep in subject.timesteps:
        measure = subject.at(timestep)
        if folded:
            config = ProjectionConfig(dim=HUGE, mode="exact")
            engine = GradientEngine(denoiser, config, patterns)
            yield Gram.of(*_measured(engine, measure, len(subject), 1))
        else:
            yield Gram.of(plain_gradients(denoiser, names, measure, len(subject)))


def measured(
    subject: Subject, patterns: Sequence[str], mode: Mode, dims: Sequence[int | None], precision: Precision, rows: int
) -> dict[Setting, list[Gram]]:
    """Of each length in `dims`, the Gram of each timestep, `rows` pictures at a time. None goes alone."""
    denoiser, seed = subject.model.denoiser, subject.config.projection.seed
    lengths = [dim for dim in dims if dim is not None]
    engine: GradientEngine
    if lengths:
        engine = EngineOfSeveral(denoiser, mode, lengths, seed, patterns, precision)
    else:
        whole = ProjectionConfig(dim=None, mode=mode)
        engine = GradientEngine(denoiser, whole, patterns, precision=precision)
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
