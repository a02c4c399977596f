"""`forebear attribute`: the training images that a picture descends from."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forebear.cli.options import run_option
from forebear.run import Run

if TYPE_CHECKING:
    from forebear.attribution import Attribution, Influence


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@run_option()
@click.option("--prompt", default="", help="The caption under which the picture was made, for text-conditional models.")
@click.option("--label", type=int, help="Class of the picture, for class-conditional models.")
@click.option("--estimator", default="retrac", show_default=True, help="The estimator to print.")
@click.option(
    "--top-k", type=click.IntRange(1), default=12, show_default=True, help="Proponents and opponents to show."
)
@click.option("--report", type=click.Path(path_type=Path), help="Write the HTML report here.  [default: IMAGE.html]")
@click.option("--paper", is_flag=True, help="Measure at the paper's 100 timesteps x 16 draws instead of the store's.")
def attribute(
    image: Path, run: Run, prompt: str, label: int | None, estimator: str, top_k: int, report: Path | None, paper: bool
) -> None:
    """Print the training images that the picture IMAGE descends from, and write an HTML report.

    A positive score means that training on the image lowered the model's loss on this picture. The report also shows
    TracIn and ReTrac beside the estimator asked for, where the run has their indexes.
    """
    from forebear.attribution import Attributor, QueryConfig, ReportEntry, write_report

    attributor = Attributor.open(run.folder)
    answers = attributor.attribute_all(
        image, caption=prompt, label=label, first=estimator, top_k=top_k, query=QueryConfig(paper=paper)
    )
    echo_attribution(answers[0])
    target = report or image.with_suffix(".html")
    entry = ReportEntry(attributor.query_picture(image), prompt or image.name, answers)
    write_report(target, [entry], attributor.training_set)
    click.echo(f"report: {target}")


def echo_attribution(attribution: "Attribution") -> None:
    """Print proponents and opponents as two tables."""
    _echo_table(f"{attribution.estimator}: proponents", attribution.proponents)
    _echo_table(f"{attribution.estimator}: opponents", attribution.opponents)
    click.echo(attribution.sign)


def _echo_table(title: str, influences: Sequence["Influence"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("rank", "score", "percentile"):
        table.add_column(heading, justify="right")
    for heading in ("sample", "caption", "groups"):
        table.add_column(heading, overflow="fold")
    for influence in influences:
        # Values alone keep a row on one line; the report names them.
        groups = ", ".join(value for name, value in influence.groups.items() if name != "author")
        numbers = (str(influence.rank), f"{influence.score:+.3g}", f"{influence.percentile:.1f}")
        table.add_row(*numbers, influence.sample_id, influence.caption, groups)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
