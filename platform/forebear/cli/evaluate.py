"""`forebear evaluate`: how far a run's attributions can be trusted."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from forebear.cli.options import run_option
from forebear.cli.train import INTERRUPTED
from forebear.run import Run

if TYPE_CHECKING:
    from forebear.evaluation.figures import Result

Command = TypeVar("Command", bound=Callable[..., Any])

ENTRY_POINTS = "forebear.evaluations"
"""Other packages add evaluations here: each entry is a click command."""


class Evaluations(click.Group):
    """Those below and, imported when they are used, those that other packages add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *(point.name for point in entry_points(group=ENTRY_POINTS))])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        for point in entry_points(group=ENTRY_POINTS, name=cmd_name) if found is None else ():
            found = point.load()
        return found


@click.group(cls=Evaluations)
def evaluate() -> None:
    """Measure how far a run's attributions can be trusted, always beside the baselines `pixel` and `random`.

    Every evaluation writes its settings, figures with 95 % intervals and details to RUN/evaluation/NAME, and can be
    stopped: the same command goes on. `forebear evaluate report` puts all of them on one page.
    """


def _shared(name: str) -> Callable[[Command], Command]:
    """The options of every evaluation."""

    def decorate(command: Command) -> Command:
        for option in reversed(
            (
                run_option(),
                click.option(
                    "--config", type=click.Path(path_type=Path), help="YAML file with the evaluation's settings."
                ),
                click.option(
                    "--name", default=name, show_default=True, help="Folder of the results in RUN/evaluation."
                ),
                click.option(
                    "--estimator",
                    "estimators",
                    multiple=True,
                    help="May be repeated.  [default: all that the store serves]",
                ),
            )
        ):
            command = option(command)
        return command

    return decorate


queries_option = click.option("--queries", type=click.IntRange(2), help="How many queries, in place of the settings'.")
workers_option = click.option(
    "--workers", type=click.IntRange(0), help="One-thread Ray actors.  [default: the settings']"
)


@evaluate.command()
@_shared("lds")
@workers_option
def lds(run: Run, config: Path | None, name: str, estimators: tuple[str, ...], workers: int | None) -> None:
    """Do scores predict what retraining on random halves of the data does? (The linear datamodeling score.)

    Trains the models that are missing, which takes long, and then scores. The run is one of `forebear train`.
    """
    from forebear.evaluation.figures import check_name
    from forebear.evaluation.lds_config import LdsConfig
    from forebear.evaluation.lds_results import run_lds

    settings = chosen_settings(LdsConfig, config, estimators=estimators, workers=workers)
    finish(run, run_lds(run, settings, check_name(name)))


@evaluate.command()
@_shared("specificity")
@queries_option
@click.option("--top", type=click.IntRange(1), help="Length of each query's list, in place of the settings'.")
def specificity(
    run: Run, config: Path | None, name: str, estimators: tuple[str, ...], queries: int | None, top: int | None
) -> None:
    """Do different queries get different answers, or do large gradients influence everything?"""
    from forebear.evaluation.specificity import SpecificityConfig, run_specificity

    settings = chosen_settings(SpecificityConfig, config, estimators=estimators, queries=queries, top=top)
    finish(run, run_specificity(run, settings, name))


@evaluate.command()
@_shared("tracing")
@queries_option
def tracing(run: Run, config: Path | None, name: str, estimators: tuple[str, ...], queries: int | None) -> None:
    """Is a training picture found again when it, mirrored, cropped or recoloured, is the query?"""
    from forebear.evaluation.tracing import TracingConfig, run_tracing

    finish(run, run_tracing(run, chosen_settings(TracingConfig, config, estimators=estimators, queries=queries), name))


@evaluate.command()
@_shared("outliers")
@click.option(
    "--planted-group",
    "planted",
    multiple=True,
    metavar="GROUP=VALUE",
    help="Marks planted images in the run's own training set. May be repeated.  [default: plant images, train, embed]",
)
def outliers(run: Run, config: Path | None, name: str, estimators: tuple[str, ...], planted: tuple[str, ...]) -> None:
    """Does self-influence find images that do not belong, foreign or mislabelled?"""
    from forebear.evaluation.outliers import OutliersConfig, run_outliers

    settings = chosen_settings(OutliersConfig, config, estimators=estimators, planted=_planted(planted))
    finish(run, run_outliers(run, settings, name))


@evaluate.command()
@_shared("removal")
@queries_option
@workers_option
def removal(
    run: Run, config: Path | None, name: str, estimators: tuple[str, ...], queries: int | None, workers: int | None
) -> None:
    """How far does a generated picture move when a model is trained without its top images?

    Trains a model for each picture and estimator, which takes long. The run is one of `forebear train`.
    """
    from forebear.evaluation.removal import RemovalConfig, run_removal

    settings = chosen_settings(RemovalConfig, config, estimators=estimators, queries=queries, workers=workers)
    finish(run, run_removal(run, settings, name))


@evaluate.command()
@_shared("families")
@queries_option
@click.option("--group", "groups", multiple=True, help="Group column that relatives share. May be repeated.")
def families(
    run: Run,
    config: Path | None,
    name: str,
    estimators: tuple[str, ...],
    queries: int | None,
    groups: tuple[str, ...],
) -> None:
    """Are the proponents of a generated picture relatives of what its caption asks for?"""
    from forebear.evaluation.families import FamiliesConfig, run_families

    settings = chosen_settings(FamiliesConfig, config, estimators=estimators, queries=queries, groups=groups)
    finish(run, run_families(run, settings, name))


@evaluate.command()
@run_option()
@click.option(
    "--out", type=click.Path(path_type=Path), help="The HTML page; the table lies beside it.  [default: RUN/evaluation]"
)
def report(run: Run, out: Path | None) -> None:
    """Put all evaluations of a run on one HTML page, and all figures into one Parquet file."""
    from forebear.evaluation.report import write_evaluation_report

    page, table = write_evaluation_report(run, out)
    click.echo(f"report: {page}\nfigures: {table}")


Settings = TypeVar("Settings")


def chosen_settings(kind: type[Settings], config: Path | None, **given: Any) -> Settings:
    """The settings of a file, or the defaults, with what the command line gives in their place."""
    from forebear.config import parse, read_yaml

    values = read_yaml(config) if config else {}
    chosen = {name: value for name, value in given.items() if value not in (None, (), {})}
    return parse(kind, {**values, **chosen}, str(config) if config else "forebear evaluate")


def _planted(pairs: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{pair!r} is not GROUP=VALUE", param_hint="--planted-group")
        found.setdefault(name, []).append(value)
    return found


def finish(run: Run, result: "Result | None") -> None:
    """Print the figures; or say how to go on when a signal stopped the work."""
    if result is None:
        _stopped()
    else:
        _echo_figures(result)
        click.echo(
            f"results: {run.folder / 'evaluation' / result.name}; page: forebear evaluate report --run {run.folder}"
        )


def _stopped() -> None:
    click.echo("stopped with its state saved; the same command goes on", err=True)
    raise SystemExit(INTERRUPTED)


def _echo_figures(result: "Result") -> None:
    from rich.console import Console
    from rich.table import Table

    samples = f": {result.facts['samples']:,} images" if result.facts["samples"] else ""
    table = Table(title=f"{result.name}{samples}", title_justify="left", box=None, pad_edge=False)
    for heading in (result.facts.get("rows", "estimator"), "figure", "of"):
        table.add_column(heading, overflow="fold")
    for heading in ("value", "95 % interval"):
        table.add_column(heading, justify="right")
    for one in result.figures:
        interval = "" if one.low != one.low else f"{one.low:.4g} to {one.high:.4g}"
        table.add_row(one.estimator, one.metric, one.variant, f"{one.value:.4g}", interval)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
