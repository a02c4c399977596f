"""`forebear attribute`: the training images that a picture descends from."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from forebear.cli.options import allow_low_recall_option, run_option
from forebear.errors import ConfigError
from forebear.run import Run

if TYPE_CHECKING:
    from forebear.attribution import Attribution, GroupTotal, Influence, Memorisation, QueryConfig

GROUPS_SHOWN = 6
"""Groups printed for each column; the report has no more of them either."""


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@run_option()
@click.option("--prompt", default="", help="The caption under which the picture was made, for text-conditional models.")
@click.option("--label", type=int, help="Class of the picture, for class-conditional models.")
@click.option("--estimator", help="The estimator to print.  [default: retrac-ridge]")
@click.option(
    "--top-k", type=click.IntRange(1), default=12, show_default=True, help="Proponents and opponents to show."
)
@click.option("--report", type=click.Path(path_type=Path), help="Write the HTML report here.  [default: IMAGE.html]")
@click.option("--paper", is_flag=True, help="Measure at the paper's 100 timesteps x 16 draws instead of the store's.")
@click.option(
    "--timesteps",
    type=click.IntRange(1),
    help="Measure at this many timesteps instead of the store's: fewer are faster, and rank less surely.",
)
@click.option(
    "--sampling",
    type=click.Choice(["stratified", "importance"]),
    help="With --timesteps: evenly placed, or where training gradients are long, which tracin and cosine profit from."
    "  [default: stratified]",
)
@click.option(
    "--region",
    "boxes",
    multiple=True,
    metavar="L,T,R,B",
    help="Ask about this box too, in pixels of the picture; may be repeated.",
)
@click.option(
    "--mask", "masks", multiple=True, type=click.Path(path_type=Path), help="A picture, white where to ask; repeatable."
)
@click.option("--from", "first", type=click.IntRange(0), help="Lowest timestep to measure at: details.")
@click.option("--to", "last", type=click.IntRange(0), help="Highest timestep to measure at: coarse shapes.")
@click.option("--band", metavar="A-B", help="Both at once.")
@click.option("--quick", is_flag=True, help="Scores alone: no intervals, p-values, null percentiles or copy check.")
@allow_low_recall_option
def attribute(
    image: Path,
    run: Run,
    prompt: str,
    label: int | None,
    estimator: str | None,
    top_k: int,
    report: Path | None,
    paper: bool,
    timesteps: int | None,
    sampling: Literal["stratified", "importance"] | None,
    boxes: tuple[str, ...],
    masks: tuple[Path, ...],
    first: int | None,
    last: int | None,
    band: str | None,
    quick: bool,
    allow_low_recall: bool,
) -> None:
    """Print the training images that the picture IMAGE descends from, and write an HTML report.

    A positive score means that training on the image lowered the model's loss on this picture. The report also shows
    TracIn and ReTrac beside the estimator asked for, where the run has their indexes, and the answers of each region
    beside that of the whole picture.
    """
    from forebear.attribution import Attributor, AuditConfig, ReportEntry, write_report
    from forebear.attribution.region import Mask, parse_box
    from forebear.estimators import DEFAULT_ESTIMATOR

    regions: list[Mask] = [*(parse_box(box) for box in boxes), *masks]
    between = _band(band, first, last)
    query = _query(timesteps, sampling, paper=paper)
    attributor = Attributor.open(run.folder, allow_low_recall=allow_low_recall)
    answers = attributor.attribute_all(
        image,
        caption=prompt,
        label=label,
        first=estimator or DEFAULT_ESTIMATOR,
        top_k=top_k,
        query=query,
        regions=regions,
        band=attributor.band(*between) if between else None,
        audit=None if quick else AuditConfig(),
    )
    echo_attribution(answers[0])
    for answer in answers:
        if answer.query.region is not None:
            _echo_table(f"{answer.estimator}: proponents of the {answer.query.region.label}", answer.proponents)
    target = report or image.with_suffix(".html")
    entry = ReportEntry(attributor.query_picture(image), prompt or image.name, answers)
    write_report(target, [entry], attributor.training_set)
    click.echo(f"report: {target}")


def echo_attribution(attribution: "Attribution") -> None:
    """Print what the query may be a copy of, proponents and opponents, and groups that stand out."""
    if attribution.memorisation is not None:
        _echo_copies(attribution.memorisation)
    _echo_table(f"{attribution.estimator}: proponents", attribution.proponents)
    _echo_table(f"{attribution.estimator}: opponents", attribution.opponents)
    for name, totals in attribution.group_totals.items():
        if len(totals) > 1:
            _echo_groups(name, totals[:GROUPS_SHOWN])
    click.echo(attribution.sign)


def _query(
    timesteps: int | None, sampling: Literal["stratified", "importance"] | None, *, paper: bool
) -> "QueryConfig":
    """How the picture is measured."""
    from forebear.attribution import QueryConfig

    if paper and timesteps is not None:
        raise ConfigError("--paper chooses the timesteps itself; leave out --timesteps, or leave out --paper")
    if sampling is not None and timesteps is None:
        raise ConfigError("--sampling places the timesteps that --timesteps asks for; give it a number, such as 8")
    return QueryConfig(paper=paper, count=timesteps, sampling=sampling or "stratified")


def _band(band: str | None, first: int | None, last: int | None) -> tuple[int | None, int | None] | None:
    """First and last timestep asked for; None when there is no restriction."""
    if band is None:
        return None if first is None and last is None else (first, last)
    if first is not None or last is not None:
        raise ConfigError("--band gives both ends; leave out --from and --to")
    low, _, high = band.partition("-")
    if not (low.isdecimal() and high.isdecimal()):
        raise ConfigError(f"--band {band} is none; give its first and last timestep, such as 0-300")
    return int(low), int(high)


def _echo_copies(found: "Memorisation") -> None:
    nearest = next((one for one in found.nearest if one.near_copy), found.nearest[0])
    verdict = "a near copy of" if found.near_copy else "not a near copy; nearest is"
    closer = "" if nearest.closer_than is None else f", closer than {nearest.closer_than:.1f} % of training images' own"
    name = f"{nearest.sample_id} {nearest.caption}".strip()
    click.echo(f"{verdict} {name} ({nearest.measure} {nearest.value:.3g}{closer})\n")


def _echo_table(title: str, influences: Sequence["Influence"]) -> None:
    rows = []
    for influence in influences:
        # Values alone keep a row on one line; the report names them.
        groups = ", ".join(value for name, value in influence.groups.items() if name != "author")
        null = "" if influence.null_percentile is None else f"{influence.null_percentile:.1f}"
        numbers = (str(influence.rank), f"{influence.score:+.3g}", f"{influence.percentile:.1f}", null)
        rows.append((*numbers, influence.sample_id, influence.caption, groups))
    _print(title, ("rank", "score", "percentile", "null"), ("sample", "caption", "groups"), rows)


def _echo_groups(name: str, totals: Sequence["GroupTotal"]) -> None:
    rows = []
    for group in totals:
        share = f"{100 * group.positive_share:.1f} %"
        if group.share_interval is not None:
            share += f" ({100 * group.share_interval[0]:.1f}-{100 * group.share_interval[1]:.1f})"
        p_values = ("" if value is None else f"{value:.2g}" for value in (group.p_value, group.adjusted_p_value))
        rows.append((f"{group.total:+.3g}", share, f"{group.ratio:.1f}x", *p_values, group.value or "not given"))
    _print(f"influence by {name}", ("total", "positive part", "of data", "p", "adjusted"), (name,), rows)


def _print(
    title: str, numbers: Sequence[str], words: Sequence[str], rows: Sequence[tuple[str, ...]], width: int = 160
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in numbers:
        table.add_column(heading, justify="right")
    for heading in words:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else width).print(table)
