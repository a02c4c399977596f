"""What was measured of each generator, and the figures, tables, curves and pictures that are made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from forebear.evaluation.charts import Chart, Line
from forebear.evaluation.figures import Figure
from forebear.evaluation.metrics import Interval, bootstrap_median, jackknife
from forebear.files import whole_file
from forebear.images import grid, to_picture
from forebear_generators.evaluation.measures import frechet_distance
from forebear_generators.evaluation.temporal_errors import TemporalErrors
from forebear_generators.generator import Request

Floats = NDArray[np.float64]

FULL = "fp32"
OTHER_SEEDS = "fp32, other seeds"
"""The row of full precision against itself at other seeds of the same prompts: what chance alone changes."""
STRIP_SIDE = 96
"""Pixels, at least, of a picture's side on the page."""


@dataclass
class Findings:
    """Of one generator; what was not measured is empty."""

    name: str
    pixels: Tensor
    """float32[B, C, H, W]."""
    features: Floats
    """For the Fréchet distance: float64[B, d]."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Variant, backend, bytes, and the like."""
    pictures: dict[str, Floats] = field(default_factory=dict)
    """By measure, a value for each picture, float64[B], against full precision's picture."""
    deviation: Floats | None = None
    """float64[S + 1, B]."""
    temporal: TemporalErrors | None = None
    seconds: Floats | None = None
    """Of a step, float64[rounds]."""


def figures(one: Findings, full: Findings, reference: Floats) -> list[Figure]:
    """The figures of a generator; `reference` are the features, [B, d], of full precision's pictures of other seeds.

    Shares of bytes are of full precision's in float32, in which it computes: its files may be in float16.
    """
    found = [_median(one.name, metric, values) for metric, values in one.pictures.items()]
    if one.deviation is not None:
        found.append(_median(one.name, "deviation, last step", one.deviation[-1]))
        found.append(_median(one.name, "deviation, mean of steps", one.deviation[1:].mean(0)))
    if one.temporal is not None:
        errors = {"relative error": one.temporal.relative, "1 - cosine": one.temporal.cosine}
        errors["mismatches"] = one.temporal.mismatched
        found += [_plain(one.name, "temporal features", np.mean(each), each.size, to) for to, each in errors.items()]
    if one.name != OTHER_SEEDS:
        # A bootstrap would hold pictures twice, which makes covariances smaller and sets farther apart.
        distance = jackknife(lambda kept: frechet_distance(one.features[kept], reference[kept]), len(one.features))
        found.append(Figure.of(one.name, "Fréchet distance", distance, len(one.features)))
    for where in ("on disk", "loaded"):
        if where in one.facts:
            found.append(_plain(one.name, "bytes", one.facts[where], 1, where))
            found.append(_plain(one.name, "share of bytes", one.facts[where] / full.facts["loaded"], 1, where))
    if one.seconds is not None and full.seconds is not None:
        found.append(_median(one.name, "seconds per step", one.seconds))
        found.append(_median(one.name, "share of seconds", one.seconds / full.seconds))
    return found


def details(everything: Sequence[Findings], request: Request) -> pa.Table:
    """A row for each generator and picture."""
    told = {"prompt": request.prompts, "label": request.labels, "seed": request.seeds}
    rows = [
        {"generator": one.name, **{name: values[place] for name, values in told.items()}}
        | {metric: float(values[place]) for metric, values in one.pictures.items()}
        | {"deviation, last step": None if one.deviation is None else float(one.deviation[-1, place])}
        for one in everything
        if one.pictures
        for place in range(len(request.seeds))
    ]
    return pa.Table.from_pylist(rows)


def temporal_table(everything: Sequence[Findings]) -> pa.Table:
    """A row for each generator, module and timestep."""
    return pa.Table.from_pylist(
        [
            {
                "generator": one.name,
                "module": module,
                "timestep": time,
                "relative error": float(one.temporal.relative[place, step]),
                "1 - cosine": float(one.temporal.cosine[place, step]),
                "mismatched": float(one.temporal.mismatched[place, step]),
            }
            for one in everything
            if one.temporal is not None
            for place, module in enumerate(one.temporal.modules)
            for step, time in enumerate(one.temporal.times)
        ]
    )


def trajectory_table(everything: Sequence[Findings], request: Request) -> pa.Table:
    """A row for each generator, picture and step; step 0 is the starting noise."""
    return pa.Table.from_pylist(
        [
            {"generator": one.name, "seed": seed, "step": step, "deviation": float(one.deviation[step, place])}
            for one in everything
            if one.deviation is not None
            for place, seed in enumerate(request.seeds)
            for step in range(len(one.deviation))
        ]
    )


def charts(everything: Sequence[Findings]) -> list[dict[str, Any]]:
    """Deviation over steps, and errors of temporal features over timesteps, as plain values for the report."""
    deviations = tuple(_band(one.name, range(len(one.deviation)), one.deviation) for one in everything
                       if one.deviation is not None)  # fmt: skip
    drawn = [Chart("Deviation of x: median and quartiles over pictures", "step", "relative", deviations, log_y=True)]
    for title, part in (("relative error", "relative"), ("1 - cosine", "cosine")):
        lines = tuple(
            _band(one.name, one.temporal.times, getattr(one.temporal, part).T)
            for one in everything
            if one.temporal is not None
        )
        drawn.append(
            Chart(
                f"Temporal features, {title}: median and quartiles over modules", "timestep", title, lines, log_y=True
            )
        )
    return [asdict(each) for each in drawn]


def write_strips(everything: Sequence[Findings], folder: Path, shown: int) -> list[tuple[str, str]]:
    """Each generator's first pictures as one PNG in a row; returns (what it shows, name of the file)."""
    written = []
    for place, one in enumerate(everything):
        pictures = [to_picture(each) for each in one.pixels[:shown].numpy()]
        name = f"pictures-{place:02d}.png"
        with whole_file(folder / name) as part:
            scale = -(-STRIP_SIDE // pictures[0].width)
            grid(pictures, columns=len(pictures), scale=scale).save(part, format="PNG")
        written.append((one.name, name))
    return written


def _band(name: str, x: Sequence[float], values: Floats) -> Line:
    """Median and quartiles of float64[X, n] over n, by rising x."""
    order = np.argsort(np.asarray(x, np.float64), kind="stable")
    low, middle, high = np.percentile(values[order], [25.0, 50.0, 75.0], axis=1)
    points = tuple((float(x[at]), float(y)) for at, y in zip(order.tolist(), middle, strict=True))
    return Line(name, points, tuple(low.tolist()), tuple(high.tolist()))


def _median(name: str, metric: str, values: Floats) -> Figure:
    return Figure.of(name, metric, bootstrap_median(values, metric), len(values))


def _plain(name: str, metric: str, value: Any, count: int, variant: str) -> Figure:
    """A figure without an interval."""
    return Figure.of(name, metric, Interval(float(value), np.nan, np.nan), count, variant)


def by_name(everything: Sequence[Findings]) -> Mapping[str, Mapping[str, Any]]:
    return {one.name: one.facts for one in everything if one.facts}
