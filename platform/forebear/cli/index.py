"""`forebear index`: searchable vectors and the curvatures of estimators with a ridge."""

from pathlib import Path
from typing import Literal

import click

from forebear.cli.options import run_option
from forebear.run import Run


@click.command()
@run_option()
@click.option(
    "--estimator",
    "estimators",
    multiple=True,
    help="Estimator to index for; may be repeated.  [default: all that the store holds the measurements of]",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "exact", "rabitq"]),
    default="auto",
    show_default=True,
    help="auto: exact search up to 100,000 images, FAISS RaBitQ codes with exact re-ranking above.",
)
@click.option(
    "--features",
    type=click.Path(path_type=Path),
    help="For the estimator embedding: your own features, Parquet (sample_id and a list column) or .npy in row order.",
)
@click.option(
    "--calibration/--no-calibration",
    default=True,
    show_default=True,
    help="Compute ahead what answers are compared with: scores of other queries, nearest neighbours.",
)
def index(
    run: Run,
    estimators: tuple[str, ...],
    kind: Literal["auto", "exact", "rabitq"],
    features: Path | None,
    calibration: bool,
) -> None:
    """Build what estimators search, from the run's store.

    Estimators with the same training side share one index, and those with a ridge get their curvature: the index of
    tracin serves trak too, for any lambda.
    """
    from forebear.attribution import Attributor, build_indexes, served_by
    from forebear.attribution.features import import_features
    from forebear.config import parse
    from forebear.data import DataConfig, open_training_set
    from forebear.index import IndexConfig

    if features is not None:
        data = parse(DataConfig, run.section("data"), str(run.settings_file))
        import_features(run, open_training_set(data), features)
    for built in build_indexes(run, estimators or None, IndexConfig(kind=kind)):
        description = built.description
        names = ", ".join(served_by(run, description.metadata.estimator))
        click.echo(f"{names}: {description.count:,} images, {description.kind} search")
    if calibration:
        Attributor.open(run.folder).prepare(estimators or None)
