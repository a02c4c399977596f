"""All evaluations of a run on one page, and all of their figures in one Parquet file."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from forebear.config import parse
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.errors import ForebearError
from forebear.estimators import ESTIMATORS
from forebear.evaluation import charts
from forebear.evaluation.charts import Chart, Line
from forebear.evaluation.figures import Figure, Result, figures_table, read_results
from forebear.evaluation.ground_truth import evaluation_folder
from forebear.files import whole_file, write_text
from forebear.images import data_uri, on_white
from forebear.run import Run
from forebear.store import SIGN

PAGE, TABLE = "report.html", "report.parquet"
CARD_PIXELS = 64
COMPARED = ("tracin", "retrac", "retrac-matched", "retrac-ridge", "pixel", "random")
"""Estimators whose generally influential images are shown, as far as they were evaluated."""

TITLES: Mapping[str, str] = {
    "lds": "Do scores predict what retraining on a part of the data does?",
    "specificity": "Do different queries get different answers?",
    "tracing": "Is a training picture found again?",
    "outliers": "Do scores find what does not belong?",
    "removal": "Does a picture change when its top images are gone?",
    "families": "Are the proponents relatives of what was asked for?",
    "quantization": "Do quantised generators make the same pictures, with the same ancestors?",
    "cow": "Does Cyclic One-Way Diffusion keep the condition and follow the words?",
}
EXPLANATIONS: Mapping[str, str] = {
    "lds": "Spearman between a query's loss under models trained on random parts of the data and the sum of the part's "
    "scores, mean over queries; 95 % intervals from resampled subsets and queries. Squared: the scores squared, with "
    "their sign. The ceiling is what another training seed's losses reach.",
    "specificity": "Unique ratio: distinct images among all top lists over all places, 1 when no two queries share any "
    "image. Generally influential: images in at least the stated number of lists. Gini: concentration of positive "
    "influence. Then Spearman, mean over queries, of influence and its size with the training gradient's norm. "
    "Intervals: leave-one-query-out for counts of distinct images and their ratios, else resampled queries.",
    "tracing": "The query is a training picture, or an altered copy of it. recall@k: share of queries whose source is "
    "among the first k; MRR: mean of 1 over its rank. Intervals from resampled queries.",
    "outliers": "AUC: the chance that a planted image scores above one that was not, by its score on itself; "
    "precision: planted ones among as many first images. Support AUC: by how little the other images give it, on the "
    "mean. Isolation AUC: by the distance to a neighbour that is farther than a cluster of planted ones. Intervals: "
    "resampled images, and Wilson's for precision.",
    "removal": "Euclidean distance between a picture and the one made from the same noise by a model trained without "
    "its top images; beyond random: minus that without as many random images. Intervals from resampled pictures.",
    "families": "Share of the first proponents of a generated picture that are of the family or group of its caption; "
    "chance is that of all images. Intervals from resampled pictures.",
    "quantization": "Each generator against the full-precision model at the same prompts, seeds and sampler. "
    "Deviation: ||x_t - xhat_t|| / ||x_t||. Temporal features: relative error, 1 - cosine, and the share whose nearest "
    "full-precision feature is of another timestep, over modules and timesteps. Fréchet distance to full-precision "
    "pictures of other seeds, in features of fixed random convolutions: full precision's own is the noise. Spearman "
    "and overlap: of the attributions of both pictures. Intervals: resampled pictures; for the Fréchet distance, "
    "leaving out one at a time.",
    "cow": "Training images are kept in part, each under the caption or label of another. PSNR (dB, at most 100) and "
    "SSIM inside the mask, against the condition. Adherence is the model's own: its loss under the right words against "
    "wrong ones; accuracy: the right words have the least; margin: by how much it is below the wrong ones' mean. Seam: "
    "mean step of levels across the mask's boundary, over that of real training images at the same boundary, and over "
    "that of the condition's own image. Diversity: root mean square distance of pictures of other seeds, outside the "
    "mask. Text alone keeps nothing, and real images are those of the words: floor and ceiling. Calls of the denoiser "
    "one after another, evaluations and processor seconds of a picture. Intervals: resampled pictures.",
}


@dataclass(frozen=True)
class Column:
    """A column of a table: a metric under a condition."""

    metric: str
    variant: str


HEADLINES: Mapping[str, Callable[[Figure], bool]] = {
    "lds": lambda one: not one.variant.endswith("squared"),
    "specificity": lambda one: one.metric in {"unique ratio", "generally influential"},
    "tracing": lambda one: one.metric == "recall@1",
    "outliers": lambda one: one.metric.endswith("AUC"),
    "removal": lambda one: one.metric == "L2, median",
    "families": lambda _: True,
    "quantization": lambda one: one.metric.startswith(("PSNR", "top")),
    "cow": lambda one: one.metric in {"PSNR", "accuracy"} and not one.variant,
}
"""The figures of each kind that the overview repeats."""


@dataclass(frozen=True)
class Card:
    """A training picture on the page."""

    uri: str
    caption: str
    note: str
    marked: bool = False


@dataclass(frozen=True)
class Section:
    """One evaluation as the page shows it."""

    result: Result
    title: str
    explanation: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[Column, Figure]]
    """By estimator."""
    charts: tuple[Chart, ...]
    cards: Mapping[str, tuple[Card, ...]]
    """By estimator."""
    cards_title: str
    strips: Mapping[str, str]
    """Rows of pictures that the evaluation wrote, as `data:` addresses by what they show."""
    remarks: tuple[str, ...]


def write_evaluation_report(run: Run, page: Path | None = None) -> tuple[Path, Path]:
    """Write every result of a run as one self-contained HTML page and one Parquet file beside it; returns both paths.

    By default RUN/evaluation/report.html and report.parquet. Raises ConfigError when there is no result yet.
    """
    results = read_results(run)
    page = page or run.folder / "evaluation" / PAGE
    table = page.with_suffix(".parquet")
    environment = Environment(
        loader=PackageLoader("forebear.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("evaluation.html.j2").render(
        run=run.folder.resolve().name,
        sections=[_section(run, result) for result in results],
        overview=overview(results),
        rows_are=" or ".join(dict.fromkeys(result.facts.get("rows", "estimator") for result in results)),
        costs=costs(results),
        descriptions={name: one.description for name, one in ESTIMATORS.items()},
        sign=SIGN,
        shown=shown,
        frame=charts,
    )
    with whole_file(table) as part:
        pq.write_table(figures_table(results), part)
    write_text(page, text)
    return page, table


def overview(results: Sequence[Result]) -> tuple[list[Column], dict[str, dict[Column, Figure]]]:
    """The headlines of all results: columns, and their figures by estimator."""
    columns: dict[Column, None] = {}
    rows: dict[str, dict[Column, Figure]] = {}
    for result in results:
        for figure in filter(HEADLINES[result.kind], result.figures):
            column = Column(f"{result.name}: {figure.metric}", figure.variant)
            columns[column] = None
            rows.setdefault(figure.estimator, {})[column] = figure
    return list(columns), _ordered(rows)


def costs(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """By estimator, the costs that the last of the results measured."""
    found: dict[str, dict[str, float]] = {}
    for result in results:
        for name, cost in result.facts.get("costs", {}).items():
            # An evaluation without queries has measured no time.
            if cost["embedding_seconds"] or cost["scoring_seconds"] or name not in found:
                found[name] = cost
    return _ordered(found)


def shown(value: float) -> str:
    """A figure in three digits; a dash when it is not one."""
    if value != value:  # noqa: PLR0124 - NaN is the one number that differs from itself
        return "–"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10 or value == 0 else f"{value:.3g}"


def _section(run: Run, result: Result) -> Section:
    columns = tuple(dict.fromkeys(Column(one.metric, one.variant) for one in result.figures))
    names = sorted(dict.fromkeys(one.estimator for one in result.figures), key=_place)
    rows = {
        name: {Column(one.metric, one.variant): one for one in result.figures if one.estimator == name}
        for name in names
    }
    return Section(
        result,
        TITLES[result.kind],
        EXPLANATIONS[result.kind],
        columns,
        rows,
        specificity_charts(result) if result.kind == "specificity" else told_charts(result),
        *_cards(run, result),
        strips=_strips(run, result),
        remarks=_remarks(result),
    )


def _place(name: str) -> int:
    """Estimators in the order of the registry, others such as the ceiling after them."""
    names = list(ESTIMATORS)
    return names.index(name) if name in names else len(names)


def _ordered(by_name: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(by_name.items(), key=lambda item: _place(item[0])))


def _remarks(result: Result) -> tuple[str, ...]:
    facts = result.facts
    found = []
    if result.kind == "specificity":
        found.append(f"Generally influential: in at least {facts['at_least']} of {facts['queries']} lists.")
    if result.kind == "tracing":
        changes = ", ".join(f"{name} {change:.3f}" for name, change in facts["mean_change"].items())
        found.append(f"Mean change of a level on the scale from -1 to 1: {changes}.")
        if facts["twins"]:
            found.append(f"{facts['twins']} of the sources have a twin of equal pixels among the training images.")
    if result.kind == "outliers":
        planted = ", ".join(f"{count} {value}" for value, count in facts["planted"].items())
        found.append(f"Planted among {facts['samples']} images: {planted}.")
    if result.kind == "removal":
        found.append(
            f"{facts['removed']} of {facts['samples']} images were removed for each of {facts['queries']} pictures."
        )
    if result.kind == "lds" and facts.get("ridges"):
        ridges = ", ".join(f"{name} {ridge:g}" for name, ridge in facts["ridges"].items())
        found.append(f"lambda, chosen on {facts['tuning_queries']} queries that are not reported: {ridges}.")
    return (*found, *facts.get("remarks", ()))


def specificity_charts(result: Result) -> tuple[Chart, ...]:
    """Norm against timestep by checkpoint, how many images are in how many lists, and the Lorenz curves."""
    facts = result.facts
    curves = facts["norm_curves"] or facts["store_norms"]
    norms = tuple(
        Line(
            name,
            tuple((point["timestep"], point["median"]) for point in points),
            tuple(point["low"] for point in points),
            tuple(point["high"] for point in points),
        )
        for name, points in curves.items()
    )
    drawn = _ordered(facts["drawn"])
    lists = tuple(
        Line(name, tuple((float(m), float(count)) for m, count in enumerate(one["in_at_least"], start=1) if count))
        for name, one in drawn.items()
    )
    shares = tuple(
        Line(name, tuple((place / (len(one["lorenz"]) - 1), y) for place, y in enumerate(one["lorenz"])))
        for name, one in drawn.items()
    )
    return (
        Chart("Gradient norm: median and quartiles over images", "timestep", "norm", norms, log_y=True),
        Chart(
            "Images in at least m of the lists", "m", "images", tuple(line for line in lists if line.points), log_y=True
        ),
        Chart("Positive influence held by the least influential images", "share of images", "share", shares),
    )


def told_charts(result: Result) -> tuple[Chart, ...]:
    """The charts that an evaluation's facts hold ready, as plain values of Chart and Line."""
    return tuple(
        Chart(
            one["title"],
            one["x_label"],
            one["y_label"],
            tuple(
                Line(line["name"], tuple((x, y) for x, y in line["points"]), tuple(line["low"]), tuple(line["high"]))
                for line in one["lines"]
            ),
            log_y=one["log_y"],
        )
        for one in result.facts.get("charts", ())
    )


def _strips(run: Run, result: Result) -> dict[str, str]:
    """The rows of pictures in an evaluation's folder that its facts name; those that are gone are left out."""
    folder = evaluation_folder(run, result.name)
    found = {title: folder / Path(name).name for title, name in result.facts.get("strips", ())}
    return {
        title: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        for title, path in found.items()
        if path.is_file()
    }


def _cards(run: Run, result: Result) -> tuple[Mapping[str, tuple[Card, ...]], str]:
    """Pictures by estimator, and their title."""
    if result.kind == "specificity":
        common = {name: result.facts["drawn"][name]["common"] for name in COMPARED if name in result.facts["drawn"]}
        wanted = {name: [(row, f"in {lists} lists", False) for row, lists in rows] for name, rows in common.items()}
        title = "Images in the most lists"
    elif result.kind == "outliers":
        marked = set(result.facts["marked"])
        wanted = {
            name: [(row, "planted" if row in marked else "", row in marked) for row in rows]
            for name, rows in _ordered(result.facts["suspicious"]).items()
        }
        title = "Images with the highest scores on themselves; planted ones are framed"
    else:
        return {}, ""
    training_set = _training_set(Run(run.folder / result.facts.get("subject", "")), result.facts)
    if training_set is None:
        return {}, "The training images are not those that were evaluated, so none are shown."
    pictures: dict[int, str] = {}
    cards: dict[str, tuple[Card, ...]] = {}
    for name, places in wanted.items():
        for row, _, _ in places:
            pictures.setdefault(row, data_uri(_reduced(training_set.picture(row, CARD_PIXELS))))
        cards[name] = tuple(
            Card(pictures[row], training_set.samples[row].caption, note, mark) for row, note, mark in places
        )
    return cards, title


def _training_set(run: Run, facts: Mapping[str, Any]) -> TrainingSet | None:
    """The images that were evaluated; None when they are gone or others."""
    try:
        found = open_training_set(parse(DataConfig, run.section("data"), str(run.settings_file)))
    except ForebearError:
        return None
    return found if found.fingerprint == facts["dataset"] else None


def _reduced(picture: Image.Image) -> Image.Image:
    small = on_white(picture)
    small.thumbnail((CARD_PIXELS, CARD_PIXELS), Image.Resampling.LANCZOS)
    return small
