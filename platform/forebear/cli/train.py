"""`forebear train`: a diffusion model from a configuration file."""

from pathlib import Path

import click

from forebear.cli.options import run_option
from forebear.config import parse, read_yaml
from forebear.run import Run

INTERRUPTED = 130
"""The exit code shells use for a program that a signal stopped."""


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@run_option()
def train(config: Path, run: Run) -> None:
    """Train the model that the YAML file CONFIG describes, or go on where a run stopped.

    SIGINT and SIGTERM save the state first; the same command then resumes, with the same result as if it had never
    been stopped.
    """
    from forebear.diffusion.training import TrainConfig
    from forebear.diffusion.training import train as fit

    if fit(run, parse(TrainConfig, read_yaml(config), str(config))):
        click.echo(f"trained; the model is {run.model_folder}, the checkpoints are in {run.checkpoints_folder}")
        return
    click.echo(f"stopped with its state saved; go on with: forebear train {config} --run {run.folder}", err=True)
    raise SystemExit(INTERRUPTED)
