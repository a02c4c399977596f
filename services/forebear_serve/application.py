"""What a Serve configuration imports: `forebear_serve.application:build`, with the settings as its arguments."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forebear.config import parse, read_yaml
from forebear.errors import ConfigError
from forebear_serve.settings import ServeSettings

if TYPE_CHECKING:
    from ray.serve import Application

SETTINGS = "FOREBEAR_SETTINGS"
"""Environment variable: the file of settings for `forebear_serve.application:app`."""


def build(args: dict[str, Any]) -> "Application":
    """The application of the given settings; raises ConfigError that names a setting which is wrong."""
    return _application(args, "args of forebear_serve.application:build")


def __getattr__(name: str) -> "Application":
    """`app`: what `serve build` and `serve run` want, which know no arguments; its settings are in FOREBEAR_SETTINGS.

    Raises ConfigError where that is not set or a setting is wrong.
    """
    if name != "app":
        raise AttributeError(name)
    file = os.environ.get(SETTINGS)
    if not file:
        raise ConfigError(f"{SETTINGS} is not set; let it name a YAML file of settings, such as `run: runs/demo`")
    return _application(read_yaml(Path(file)), file)


def _application(values: dict[str, Any], where: str) -> "Application":
    from forebear_serve.deployments import application

    return application(parse(ServeSettings, values, where))
