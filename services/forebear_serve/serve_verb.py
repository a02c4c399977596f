"""`forebear serve`: generators and attribution over HTTP, on this machine."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from forebear.cli.options import run_option
from forebear.config import parse, read_yaml
from forebear.errors import ConfigError
from forebear.run import Run

GRACE = 10.0
"""Seconds that the dashboard has to end."""


@click.command()
@run_option(required=False)
@click.option("--config", type=click.Path(path_type=Path), help="Settings in YAML; see docs/services.md.")
@click.option(
    "--generator",
    "generators",
    multiple=True,
    metavar="NAME=FOLDER",
    help="A model, or what `forebear quantize` wrote, by the name for requests.  [default: fp32, the run's own]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Others than loopback want a token first.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--dashboard", is_flag=True, help="Run `forebear dashboard` over it too.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="With --dashboard: open a browser.")
def serve(
    run: Run | None,
    config: Path | None,
    generators: tuple[str, ...],
    host: str,
    port: int,
    dashboard: bool,
    browser: bool,
) -> None:
    """Serve a run: make pictures and trace them over HTTP until SIGINT or SIGTERM, then finish what is in flight."""
    from forebear_serve.serving import first_token, served
    from forebear_serve.settings import ServeSettings

    values: dict[str, Any] = read_yaml(config) if config else {}
    if run is not None:
        values["run"] = str(run.folder.absolute())
    if "run" not in values:
        raise ConfigError("there is no run to serve; give --run, or run: in --config")
    if generators:
        values["generators"] = _generators(generators)
    settings = parse(ServeSettings, values, str(config or "options"))
    if not Run(settings.run).settings_file.is_file():
        raise ConfigError(f"{settings.run} is not a run; make one with `forebear demo` or `forebear train`")
    secret = first_token(settings, host)
    if secret is not None:
        click.echo(f"token, shown this once: {secret}")
    click.echo("starting", err=True)
    with served(settings, host, port, lambda line: click.echo(line, err=True)):
        address = f"http://{host}:{port}/v1"
        click.echo(f"serving {settings.run.name} at {address}; try\n\n{_example(address, secret)}\n")
        with _dashboard(address.removesuffix("/v1"), secret, browser=browser) if dashboard else nullcontext():
            _wait_for_signal()
        click.echo("finishing what is in flight", err=True)


@contextmanager
def _dashboard(address: str, secret: str | None, *, browser: bool) -> Iterator[None]:
    """The pages in a process of their own, signed in with a token that was made just now."""
    command = [sys.executable, "-m", "forebear.cli.main", "dashboard", "--address", address]
    given = {} if secret is None else {"FOREBEAR_TOKEN": secret}
    pages = subprocess.Popen(
        [*command, "--browser" if browser else "--no-browser"], env={**os.environ, **given}, start_new_session=True
    )
    try:
        yield
    finally:
        pages.terminate()
        pages.wait(GRACE)


def _wait_for_signal() -> None:
    """Until SIGINT or SIGTERM; called last, because Ray puts a handler of its own in place when it starts."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    while not told.wait(1.0):  # with a limit, so that signals are seen
        pass


def _generators(given: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for one in given:
        name, separator, folder = one.partition("=")
        if not separator or not name:
            raise ConfigError(f"--generator {one}: give NAME=FOLDER, such as w8a8=generators/w8a8")
        found[name] = {"model": str(Path(folder).absolute()) if folder else None}
    return found


def _example(address: str, secret: str | None) -> str:
    """A line for the shell that makes a picture and traces it."""
    return (
        f"curl -N {address}/generate -H 'Authorization: Bearer {secret or 'TOKEN'}' -H 'Accept: text/event-stream' \\\n"
        """  -H 'Content-Type: application/json' -d '{"prompt": "red heart", "seed": 3, "attribute": {}}'"""
    )
