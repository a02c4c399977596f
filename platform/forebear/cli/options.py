"""Options that several verbs share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from forebear.run import Run

Command = TypeVar("Command", bound=Callable[..., Any])

RUN_HELP = "Run folder: model, checkpoints, store and indexes."


def run_option(default: str | None = None, *, required: bool = True) -> Callable[[Command], Command]:
    """`--run FOLDER`, which the verb receives as a Run, or as None where it is not required and not given."""
    return click.option(
        "--run",
        envvar="FOREBEAR_RUN",
        show_envvar=True,
        type=click.Path(path_type=Path),
        callback=lambda _context, _parameter, folder: None if folder is None else Run(folder),
        required=required and default is None,
        default=default,
        show_default=True,
        help=RUN_HELP,
    )


def allow_low_recall_option(command: Command) -> Command:
    """`--allow-low-recall`."""
    return click.option(
        "--allow-low-recall", is_flag=True, help="Use an index that finds less of the true best than its floor."
    )(command)
