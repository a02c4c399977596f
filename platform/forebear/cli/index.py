"""`forebear index`: searchable vectors and the curvatures of estimators with a ridge."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from forebear.cli.options import allow_low_recall_option, run_option
from forebear.cli.sample_ids import deny_option, take_out
from forebear.run import Run

if TYPE_CHECKING:
    from forebear.index import SearchIndex


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
    "--shard-rows",
    type=click.IntRange(1),
    help="Build parts of so many images each: an interrupted build goes on, and a store that grew adds parts alone."
    "  [default: one part]",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With --shard-rows: one-thread Ray actors that build parts; 0 works in this process.",
)
@click.option(
    "--refine-factor",
    type=click.IntRange(1),
    help="rabitq: images ranked exactly for each image asked for; more find more of the true best.  [default: 10]",
)
@click.option(
    "--min-candidates",
    type=click.IntRange(1),
    help="rabitq: fewest images ranked exactly.  [default: 1000]",
)
@click.option(
    "--recall-floor",
    type=click.FloatRange(0, 1),
    help="rabitq: share of the true best that must be found, or the index is not used.  [default: 0.95]",
)
@allow_low_recall_option
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
@deny_option
def index(
    run: Run,
    estimators: tuple[str, ...],
    kind: Literal["auto", "exact", "rabitq"],
    shard_rows: int | None,
    workers: int,
    refine_factor: int | None,
    min_candidates: int | None,
    recall_floor: float | None,
    allow_low_recall: bool,
    features: Path | None,
    calibration: bool,
    deny: Path | None,
) -> None:
    """Build what estimators search, from the run's store.

    Estimators with the same training side share one index, and those with a ridge get their curvature: the index of
    tracin serves trak too, for any lambda. An index in parts is byte for byte the same with any number of workers.
    """
    from forebear.attribution import Attributor, served_by
    from forebear.attribution.features import import_features
    from forebear.attribution.opening import open_whole
    from forebear.config import parse
    from forebear.index import IndexConfig, check_recall
    from forebear.jobs import build_indexes
    from forebear.store import Store

    if workers and shard_rows is None:
        raise click.UsageError("--workers build parts, and one part is built by one process: give --shard-rows too")
    if deny is not None:
        Store.open(run.store_folder)  # an error before anything is written, where there is no store
        take_out(run, deny)
    if features is not None:
        store, whole = open_whole(run)
        import_features(run, whole, features, store.left_out)
    given = {
        "kind": kind,
        "refine_factor": refine_factor,
        "min_candidates": min_candidates,
        "recall_floor": recall_floor,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    config = parse(IndexConfig, settings, "the command line")
    for built in build_indexes(run, estimators or None, config, shard_rows, workers):
        names = ", ".join(served_by(run, built.description.metadata.estimator))
        click.echo(f"{names}: {_told(built)}")
        if not allow_low_recall:
            check_recall(built.folder, built.description)
    if calibration:
        Attributor.open(run.folder, allow_low_recall=allow_low_recall).prepare(estimators or None)


def _told(built: "SearchIndex") -> str:
    """What was built, in a line."""
    description = built.description
    parts = f" in {built.parts} parts" if built.parts > 1 else ""
    told = f"{description.count:,} images, {description.kind} search{parts}"
    if description.kind == "exact":
        return told
    recall = description.recall
    return (
        f"{told}, finds {recall.at_10:.1%} of the best 10 and {recall.at_100:.1%} of the best 100, of opponents "
        f"{recall.opponents_at_10:.1%} and {recall.opponents_at_100:.1%}"
    )
