"""Options of the verbs that work on a database of tokens and reviews."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from forebear.cli.options import run_option
from forebear.errors import ConfigError
from forebear.run import Run

if TYPE_CHECKING:
    from forebear_serve.database import Database

Command = TypeVar("Command", bound=Callable[..., Any])

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A time span such as 90d, 12h, 30m or 2w."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", value)
        if found is None:
            self.fail(f"{value!r} is no time; give a number and m, h, d or w, such as 90d", param, ctx)
        return timedelta(**{UNITS[found[2]]: int(found[1])})


def database_options(command: Command) -> Command:
    """`--run FOLDER` and `--database URL`, which the verb receives as a Run, or None, and as text, or None."""
    address = click.option(
        "--database",
        envvar="FOREBEAR_DATABASE",
        show_envvar=True,
        help="Address of the database, such as postgresql://USER@HOST/NAME; goes before --run."
        "  [default: the run's own reviews.sqlite]",
    )
    return address(run_option(required=False)(command))


@contextmanager
def opened(run: Run | None, database: str | None, *, create: bool = False) -> Iterator["Database"]:
    """The database that the options name; raises ConfigError when they name none."""
    from forebear_serve.database import Database

    place = database or (run.folder if run is not None else None)
    if place is None:
        raise ConfigError("no database is named; give --run FOLDER, or --database URL")
    found = Database.open(place, create=create)
    try:
        yield found
    finally:
        found.close()
