"""What a Serve configuration imports: `forebear_serve.application:build`, with the settings as its arguments."""

from typing import TYPE_CHECKING, Any

from forebear.config import parse
from forebear_serve.settings import ServeSettings

if TYPE_CHECKING:
    from ray.serve import Application


def build(args: dict[str, Any]) -> "Application":
    """The application of the given settings; raises ConfigError that names a setting which is wrong."""
    from forebear_serve.deployments import application

    return application(parse(ServeSettings, args, "args of forebear_serve.application:build"))
