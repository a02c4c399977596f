"""`forebear index`: searchable vectors, one index for each estimator."""

from typing import Literal

import click

from forebear.cli.options import run_option
from forebear.run import Run


@click.command()
@run_option()
@click.option("--estimator", "estimators", multiple=True, help="Estimator to index; may be repeated.  [default: all]")
@click.option(
    "--kind",
    type=click.Choice(["auto", "exact", "rabitq"]),
    default="auto",
    show_default=True,
    help="auto: exact search up to 100,000 images, FAISS RaBitQ codes with exact re-ranking above.",
)
def index(run: Run, estimators: tuple[str, ...], kind: Literal["auto", "exact", "rabitq"]) -> None:
    """Build the index of each estimator from the run's store."""
    from forebear.attribution import build_indexes
    from forebear.estimators import ESTIMATORS
    from forebear.index import IndexConfig

    for built in build_indexes(run, estimators or tuple(ESTIMATORS), IndexConfig(kind=kind)):
        description = built.description
        click.echo(f"{description.metadata.estimator}: {description.count:,} images, {description.kind} search")
