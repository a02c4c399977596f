"""`forebear dashboard`: the pages, over the services at an address."""

import os
import sys
from pathlib import Path

import click

from forebear.errors import ConfigError
from forebear_serve.addresses import ADDRESS, DEFAULT_ADDRESS, TOKEN, is_loopback

APP = Path(__file__).with_name("app.py")


@click.command()
@click.option("--address", envvar=ADDRESS, default=DEFAULT_ADDRESS, show_default=True, help="Of `forebear serve`.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where the pages are; see docs/dashboard.md first."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the pages in a browser.")
def dashboard(address: str, host: str, port: int, browser: bool) -> None:
    """Open the dashboard: make pictures, see their ancestors, review and audit the training images.

    Sign in with a token of the services, or set FOREBEAR_TOKEN to be signed in (on loopback alone).
    """
    from forebear_serve.client.connection import Target

    Target.of(address, "any")  # refuses what is no address
    try:
        from streamlit.web import cli
    except ImportError:
        raise ConfigError(
            "the dashboard needs Streamlit; install it with `pip install 'forebear[dashboard]'`"
        ) from None
    os.environ[ADDRESS] = address
    if not is_loopback(host) and TOKEN in os.environ:
        del os.environ[TOKEN]
        click.echo(
            f"{TOKEN} is left aside: others reach {host}, and everyone signs in with a token of their own", err=True
        )
    import forebear_dashboard.session  # noqa: F401 - the first page need not wait for what it imports

    click.echo(f"dashboard at http://{host}:{port} for the services at {address}; stop it with Ctrl+C")
    sys.argv = ["streamlit"]  # Streamlit reads it
    cli.main(streamlit_arguments(host, port, browser), standalone_mode=False)


def streamlit_arguments(host: str, port: int, browser: bool) -> list[str]:
    """`streamlit run` with what no configuration file of a user may loosen; `.streamlit/config.toml` has the rest."""
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": str(not browser).lower(),
        "server.fileWatcherType": "none",
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": "false",
    }
    return ["run", str(APP), *(part for name, value in options.items() for part in (f"--{name}", value))]
