"""The client for programs that are in the cluster, or reach it by ray://: the same calls without HTTP.

Ray's own token admits a program to the whole cluster, so nothing is asked for beyond it.
"""

import os
from typing import Any, TypeVar

from forebear.errors import ConfigError
from forebear.jobs.pool import join_cluster
from forebear_serve.client import calls
from forebear_serve.client.calls import Upload
from forebear_serve.schemas import (
    AttributeOptions,
    EstimatorInfo,
    Generated,
    GeneratorInfo,
    GroupInfo,
    IndexInfo,
    PictureInfo,
    SampleInfo,
    SamplePage,
    TokenInfo,
    Traced,
)
from forebear_serve.scopes import Scope

APPLICATION = "forebear"
T = TypeVar("T")


class RayClient:
    """Asks the gateway by its handle; errors are those of the library and of `forebear_serve.problems`."""

    def __init__(self, address: str | None = None, application: str = APPLICATION, *, seconds: float = 150.0) -> None:
        """Joins the cluster at `address` (ray://HOST:PORT, or None: where this process is, or RAY_ADDRESS says).

        Raises ConfigError at once when ray:// would be tried without the cluster's token, JobError within seconds when
        the cluster cannot be reached or refuses the token, and ConfigError when the application does not run there.
        """
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        place = address or os.environ.get("RAY_ADDRESS")
        if not ray.is_initialized():
            if place and place.startswith("ray://"):
                require_ray_token()
            join_cluster(place or "auto")
        self._seconds = seconds
        try:
            self._gateway = serve.get_app_handle(application)
        except RayServeException:
            raise ConfigError(f"no application {application} runs there; start it with `forebear serve`") from None

    def token(self) -> TokenInfo:
        """As `Client.token`: whoever is in the cluster may do everything, for as long as Ray lets it in."""
        return TokenInfo(name="ray", scopes=tuple(Scope))

    def generators(self) -> tuple[GeneratorInfo, ...]:
        return self._call(tuple[GeneratorInfo, ...], "generators")

    def estimators(self) -> tuple[EstimatorInfo, ...]:
        return self._call(tuple[EstimatorInfo, ...], "estimators")

    def index(self) -> IndexInfo:
        return self._call(IndexInfo, "index")

    def groups(self, limit: int = 100) -> tuple[GroupInfo, ...]:
        return self._call(tuple[GroupInfo, ...], "groups", limit)

    def samples(
        self, text: str = "", *, group: str | None = None, value: str | None = None, after: int = -1, limit: int = 60
    ) -> SamplePage:
        return self._call(SamplePage, "samples", text, group, value, after, limit)

    def sample(self, sample_id: str) -> SampleInfo:
        return self._call(SampleInfo, "sample", sample_id)

    def generate(
        self, prompt: str = "", *, attribute: AttributeOptions | bool | None = None, **settings: Any
    ) -> Generated:
        """As `Client.generate`."""
        return self._call(Generated, "generate", calls.generate_request(prompt, attribute, settings))

    def attribute(
        self,
        image: Upload | PictureInfo | SampleInfo,
        *,
        prompt: str | None = None,
        label: int | None = None,
        **options: Any,
    ) -> Traced:
        """As `Client.attribute`."""
        return self._call(Traced, "attribute", calls.attribute_request(image, prompt, label, options))

    def _call(self, kind: type[T], method: str, *args: Any) -> T:  # noqa: ARG002 - it is the type of the answer
        from ray.exceptions import RayTaskError

        try:
            found: T = self._gateway.ask.remote(method, *args).result(timeout_s=self._seconds)
        except RayTaskError as failed:
            raise failed.cause from None
        return found


def require_ray_token() -> None:
    """Raises ConfigError when this process has no token for a Ray cluster."""
    from pathlib import Path

    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise ConfigError(
            "RAY_AUTH_MODE is not token in this process, so the cluster would turn it away after 30 s; set "
            "RAY_AUTH_MODE=token before Python starts"
        )
    if not os.environ.get("RAY_AUTH_TOKEN") and not file.is_file():
        raise ConfigError(
            f"there is no token for the Ray cluster; put it in {file}, or set RAY_AUTH_TOKEN: `ray get-auth-token` "
            "prints it on the cluster's head"
        )
