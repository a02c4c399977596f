"""All pages of docs/reference, by file name."""

from collections.abc import Mapping
from pathlib import Path

from forebear.version import __version__
from reference.cli_page import cli_page
from reference.estimators_page import estimators_page
from reference.formats_page import formats_page
from reference.http_page import http_page
from reference.markdown import page, table
from reference.settings_page import settings_page

FOLDER = Path(__file__).parents[3] / "docs" / "reference"
INDEX = (
    ("[cli.md](cli.md)", "every verb and sub-verb with its arguments and options"),
    ("[http.md](http.md)", "every endpoint with its scope, parameters, bodies and statuses, field by field"),
    ("[settings.md](settings.md)", "every setting of a file, an option or a Python call"),
    ("[estimators.md](estimators.md)", "every estimator: what it compares, what it needs"),
    ("[formats.md](formats.md)", "every file of a run, of a generator and of an export, with its version"),
)


def pages() -> Mapping[str, str]:
    """What docs/reference has to hold."""
    return {
        "README.md": page(
            "# Reference",
            f"What there is in Forebear {__version__}, made from the code by `make reference`; a test compares every page with the "
            "code. Do not edit these pages: change the docstring, the help or the schema that they come from. The guides beside "
            "them say what things are for, [methods.md](../methods.md) which method when.",
            table(["page", "holds"], INDEX),
        ),
        "cli.md": cli_page(),
        "http.md": http_page(),
        "settings.md": settings_page(),
        "estimators.md": estimators_page(),
        "formats.md": formats_page(),
    }
