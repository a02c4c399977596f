"""Options that several verbs share."""

from pathlib import Path

import click

from forebear.run import Run


class RunFolder(click.ParamType[Run]):
    """A run folder, existing or to be made."""

    name = "folder"

    def convert(self, value: str | Run, param: click.Parameter | None, ctx: click.Context | None) -> Run:  # noqa: ARG002
        return value if isinstance(value, Run) else Run(Path(value))


run_option = click.option(
    "--run", "run", type=RunFolder(), required=True, help="Run folder: model, checkpoints, store and indexes."
)
