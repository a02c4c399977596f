"""The `forebear` command: its verbs, those that other packages add, and how errors are shown."""

import importlib
import os
import sys
from importlib.metadata import entry_points
from typing import Any

import click

from forebear.errors import ForebearError
from forebear.version import __version__

VERBS = ("train", "data", "doctor", "plan", "embed", "index", "attribute", "store", "evaluate", "demo")
"""Each is the click command of the same name in the module `forebear.cli.NAME`, imported when it is used."""

ENTRY_POINTS = "forebear.verbs"


class Verbs(click.Group):
    """Finds verbs by name without importing the others, so that `forebear --help` needs no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted([*VERBS, *(point.name for point in entry_points(group=ENTRY_POINTS))])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name in VERBS:
            found: click.Command = getattr(importlib.import_module(f"forebear.cli.{cmd_name}"), cmd_name)
            return found
        for point in entry_points(group=ENTRY_POINTS, name=cmd_name):
            added: click.Command = point.load()
            return added
        return None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; an error that the user can mend is one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except ForebearError as problem:
            click.echo(f"error: {problem}", err=True)
            ctx.exit(2)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="forebear")
def main() -> None:
    """Which training images does a diffusion model's picture descend from?"""
    # Work is spread over processes of one thread each; and nothing here may reach a model hub.
    for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    sys.exit(main())
