"""The figures, tables, curves and pictures of the evaluation of COW, from what was made and judged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forebear.evaluation.charts import Chart, Line
from forebear.evaluation.figures import Figure
from forebear.evaluation.metrics import Interval, bootstrap, bootstrap_mean, bootstrap_median
from forebear.files import whole_file
from forebear.images import grid, to_picture
from forebear_generators.cow.evaluation.cases import Case
from forebear_generators.cow.evaluation.making import Made
from forebear_generators.cow.evaluation.rows import Row
from forebear_generators.evaluation.measures import PIXEL_RANGE

Floats = NDArray[np.float64]

SEAM = "seam"
ERROR = "error inside the mask"
REAL_SEAM, OWN_SEAM = "to real images", "to the image's own"
SHARE = "share of fp32's"
SHARED = ("PSNR", "SSIM", "margin", "accuracy")
"""What a quantised generator's row is compared by."""
STRIP_SIDE = 96
"""Pixels, at least, of a picture's side on the page."""


@dataclass(frozen=True)
class Found:
    """What was measured of one row."""

    row: Row
    made: Made
    pictures: dict[str, Floats]
    """By measure, a value for each case, float64[B]."""
    jumps: tuple[Floats, Floats, Floats]
    """Across the boundary: of the pictures, of real images, and of the condition's own image, float64[B] each."""
    diversity: Floats
    """For each of the first cases, float64[D]; empty when it was left out."""


def figures(one: Found, everything: Sequence[Found]) -> list[Figure]:
    """The figures of a row. Means but for seconds, whose median over batches is taken; 95 % intervals over pictures."""
    name = one.row.name
    found = [Figure.mean(name, metric, values) for metric, values in one.pictures.items()]
    found += [
        Figure.of(name, SEAM, ratio(one.jumps[0], other, SEAM), len(other), variant)
        for other, variant in ((one.jumps[1], REAL_SEAM), (one.jumps[2], OWN_SEAM))
    ]
    if len(one.diversity):
        found.append(Figure.mean(name, "diversity", one.diversity))
    found.append(_plain(name, "calls", one.made.calls))
    found.append(_plain(name, "evaluations", one.made.evaluations))
    seconds = np.array(one.made.seconds)
    found.append(Figure.of(name, "seconds", bootstrap_median(seconds, "seconds"), len(seconds)))
    if full := next((each for each in everything if each.row.name == one.row.full), None):
        for metric in (each for each in SHARED if each in one.pictures):
            share = ratio(one.pictures[metric], full.pictures[metric], SHARE, metric)
            found.append(Figure.of(name, SHARE, share, len(one.pictures[metric]), metric))
    return found


def ratio(above: Floats, below: Floats, *key: str) -> Interval:
    """The mean of `above` over that of `below`, pairs of which one is NaN left out, bootstrapped over pairs."""
    both = ~(np.isnan(above) | np.isnan(below))
    first, second = above[both], below[both]
    if not len(first) or not second.mean():
        return Interval(np.nan, np.nan, np.nan)

    def resampled(rows: NDArray[np.int64]) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(first[rows].mean(1) / second[rows].mean(1))

    return bootstrap(resampled, len(first), float(first.mean() / second.mean()), *key)


def dominated(everything: Sequence[Found], preservation: str, follows: str) -> dict[str, list[str]]:
    """By name, the other methods that preserve no less and follow the words no less, and one of both more: by means.

    Empty where there are no words.
    """
    methods = [one for one in everything if one.row.kind in ("method", "grid") and follows in one.pictures]
    at = {one.row.name: tuple(float(np.nanmean(one.pictures[each])) for each in (preservation, follows))
          for one in methods}  # fmt: skip
    return {
        name: [
            other
            for other, values in at.items()
            if values != mine and all(theirs >= own for theirs, own in zip(values, mine, strict=True))
        ]
        for name, mine in at.items()
    }


def charts(everything: Sequence[Found]) -> list[dict[str, Any]]:
    """Preservation against adherence, then each varied setting's curves, as plain values for the report.

    Without words there is no adherence: the curves of error and seam are left.
    """
    drawn = []
    told = all("margin" in one.pictures for one in everything)
    if told and (methods := [one for one in everything if one.row.kind != "ablation"]):
        points = tuple(Line(one.row.name, (_point(one),)) for one in methods)
        drawn.append(Chart("Error against text adherence: up and left is better", ERROR, "margin", points))
    varied = list(dict.fromkeys(one.row.setting for one in everything if one.row.kind == "ablation"))
    by_setting = {name: [one for one in everything if one.row.setting == name] for name in varied}
    if told and by_setting:
        ways = tuple(Line(name, tuple(sorted(map(_point, several)))) for name, several in by_setting.items())
        drawn.append(Chart("The same, a setting of COW varied", ERROR, "margin", ways))
    for name, several in by_setting.items():
        if not any(isinstance(one.row.value, str | bool) for one in several):
            drawn += _curves(name, sorted(several, key=lambda one: float(one.row.value)))
    return [asdict(each) for each in drawn]


def _curves(name: str, rising: Sequence[Found]) -> list[Chart]:
    """Of a setting's rows by rising value: error and margin, and the seam."""
    xs = [float(one.row.value) for one in rising]
    kept_and_told = [_curve(ERROR, xs, [bootstrap_mean(_error(one), ERROR) for one in rising])]
    if all("margin" in one.pictures for one in rising):
        margins = [bootstrap_mean(one.pictures["margin"], "margin") for one in rising]
        kept_and_told.append(_curve("margin", xs, margins))
    seams = [ratio(one.jumps[0], one.jumps[1], SEAM) for one in rising]
    return [
        Chart(f"{name}: what is not kept, and how well words are told", name, "", tuple(kept_and_told)),
        Chart(f"{name}: seam", name, REAL_SEAM, (_curve(SEAM, xs, seams),)),
    ]


def details(everything: Sequence[Found], cases: Sequence[Case]) -> pa.Table:
    """A row for each row of the evaluation and case."""
    rows = []
    for one in everything:
        columns = one.pictures | dict(zip(("jump", "jump, real images", "jump, own image"), one.jumps, strict=True))
        for place, case in enumerate(cases[: one.row.cases]):
            prompt, label = case.right
            told = {"sample": case.sample, "prompt": prompt, "label": label, "seed": case.condition.seed}
            values = {metric: float(values[place]) for metric, values in columns.items()}
            rows.append({"method": one.row.name, **told, **values})
    return pa.Table.from_pylist(rows)


def write_strips(everything: Sequence[Found], folder: Path, shown: int) -> list[tuple[str, str]]:
    """Each row's first pictures as one PNG; returns (what it shows, name of the file)."""
    written = []
    for place, one in enumerate(everything):
        pictures = [to_picture(each) for each in one.made.result.pixels[:shown].numpy()]
        name = f"pictures-{place:02d}.png"
        with whole_file(folder / name) as part:
            scale = -(-STRIP_SIDE // pictures[0].width)
            grid(pictures, columns=len(pictures), scale=scale).save(part, format="PNG")
        written.append((one.row.name, name))
    return written


def _point(one: Found) -> tuple[float, float]:
    return float(_error(one).mean()), float(one.pictures["margin"].mean())


def _error(one: Found) -> Floats:
    """Root mean square error inside the mask, float64[B]: PSNR as a length, which does not end at a ceiling."""
    return np.asarray(PIXEL_RANGE * 10.0 ** (-one.pictures["PSNR"] / 20.0))


def _curve(name: str, xs: Sequence[float], ys: Sequence[Interval]) -> Line:
    points = tuple((x, y.value) for x, y in zip(xs, ys, strict=True))
    return Line(name, points, tuple(y.low for y in ys), tuple(y.high for y in ys))


def _plain(name: str, metric: str, value: float) -> Figure:
    """A figure without an interval."""
    return Figure.of(name, metric, Interval(float(value), np.nan, np.nan), 1)
