"""`forebear train`: a diffusion model from a configuration file."""

from dataclasses import replace
from pathlib import Path

import click

from forebear.cli.options import run_option
from forebear.cli.sample_ids import deny_option, read_ids
from forebear.config import parse, read_yaml
from forebear.data import DataConfig, open_training_set
from forebear.run import Run

INTERRUPTED = 130
"""The exit code shells use for a program that a signal stopped."""


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@run_option()
@deny_option
def train(config: Path, run: Run, deny: Path | None) -> None:
    """Train the model that the YAML file CONFIG describes, or go on where a run stopped.

    SIGINT and SIGTERM save the state first; the same command then resumes, with the same result as if it had never
    been stopped.
    """
    from forebear.diffusion.training import TrainConfig
    from forebear.diffusion.training import train as fit

    settings = parse(TrainConfig, read_yaml(config), str(config))
    if deny is not None:
        settings = replace(settings, data=_without(settings.data, deny))
    if fit(run, settings):
        click.echo(f"trained; the model is {run.model_folder}, the checkpoints are in {run.checkpoints_folder}")
        return
    same = "" if deny is None else f" --deny {deny}"
    click.echo(f"stopped with its state saved; go on with: forebear train {config} --run {run.folder}{same}", err=True)
    raise SystemExit(INTERRUPTED)


def _without(data: DataConfig, file: Path) -> DataConfig:
    """The same data without the samples of a deny list; says how many of them there are."""
    listed = read_ids(file)
    known = open_training_set(data).rows
    click.echo(f"{file}: {sum(one in known for one in listed):,} of its {len(listed):,} samples are there and left out")
    return replace(data, deny=tuple(sorted({*(data.deny or ()), *listed})) or None)
