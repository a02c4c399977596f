"""Ray Serve deployments: every engine in replicas of its own, and the gateway over them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from forebear_serve.database import Database
from forebear_serve.gateway.access import Access
from forebear_serve.gateway.api import make_api
from forebear_serve.gateway.attributing import traced
from forebear_serve.gateway.core import Core
from forebear_serve.gateway.generating import made
from forebear_serve.parts import Parts, ServedPart
from forebear_serve.problems import unavailable
from forebear_serve.replicas import (
    EngineReplica,
    TracerReplica,
    make_audits,
    make_catalogue,
    make_jobs,
    make_maker,
    make_review_desk,
    make_tracer,
)
from forebear_serve.settings import Replicas, ServeSettings

GATEWAY, TRACER, CATALOGUE, REVIEWS, AUDITS, JOBS = "gateway", "attributor", "catalogue", "reviews", "audits", "jobs"
ASKED_OF_TRACER = {"estimators": "estimators", "index": "info"}
ASKED_OF_CATALOGUE = {"samples": "page", "sample": "sample", "groups": "groups"}
HEALTH_PERIOD, HEALTH_TIMEOUT = 1.0, 30.0
"""Seconds between health checks of a replica, and for which one may last. Ray Serve learns of a replica's death by the
next one, so that the period is part of the time that a replacement takes."""


def maker_name(generator: str) -> str:
    """The deployment of a generator."""
    return f"generator-{generator}"


@serve.ingress()
class GatewayReplica:
    """The HTTP API over handles of the other deployments."""

    def __init__(
        self,
        settings: ServeSettings,
        makers: dict[str, DeploymentHandle],
        tracer: DeploymentHandle,
        catalogue: DeploymentHandle,
        reviews: DeploymentHandle,
        audits: DeploymentHandle,
        jobs: DeploymentHandle,
    ) -> None:
        logging.getLogger("forebear.serve").setLevel(logging.INFO)
        self._database = Database.open(settings.database_url)
        limits = settings.limits
        parts = Parts(
            {name: ServedPart(handle) for name, handle in makers.items()},
            ServedPart(tracer),
            ServedPart(catalogue),
            ServedPart(reviews),
            ServedPart(audits),
            ServedPart(jobs),
        )
        access = Access(self._database, limits.requests_per_minute, limits.generations_per_minute)
        application = serve.get_replica_context().app_name
        self._core = Core(settings, parts, access, partial(_replicas, application, tuple(makers)))

    def __serve_build_asgi_app__(self) -> Any:
        return make_api(self._core)

    async def ask(self, method: str, *args: Any) -> Any:
        """For `RayClient`: what the route of this name answers."""
        core, parts = self._core, self._core.parts
        if method == "generate":
            return await made(core, *args)
        if method == "attribute":
            return await traced(core, *args)
        if method == "generators":
            return tuple(await asyncio.gather(*(part.call("info") for part in parts.makers.values())))
        if method in ASKED_OF_TRACER:
            return await parts.tracer.call(ASKED_OF_TRACER[method], *args)
        return await parts.catalogue.call(ASKED_OF_CATALOGUE[method], *args)

    async def close(self) -> int:
        """Turn new requests away; returns how many are still being answered."""
        self._core.closing = True
        return self._core.active


def _replicas(application: str, generators: Sequence[str]) -> dict[str, dict[str, int]]:
    """Of each part by the name that people read, how many replicas are in which state.

    Raises Problem while Ray Serve's controller, which knows, is away.
    """
    try:
        found = serve.status().applications.get(application)
    except (RayError, RayServeException):
        raise unavailable("the server's own watch is being replaced; ask again") from None
    named = {maker_name(name): f"generator {name}" for name in generators}
    deployments = {} if found is None else found.deployments
    return {
        named.get(name, name): {state.lower(): count for state, count in one.replica_states.items()}
        for name, one in deployments.items()
    }


def _options(name: str, replicas: Replicas, seconds: float, ongoing: int) -> dict[str, Any]:
    """Of a deployment: a replica may finish what it has begun before it goes, for as long as a request may last."""
    given = {
        "name": name,
        "max_ongoing_requests": ongoing,
        "max_queued_requests": replicas.queue,
        "health_check_period_s": HEALTH_PERIOD,
        "health_check_timeout_s": HEALTH_TIMEOUT,
        "graceful_shutdown_timeout_s": seconds,
        "ray_actor_options": {"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
    }
    if replicas.most == replicas.least:
        return given | {"num_replicas": replicas.least}
    return given | {
        "autoscaling_config": {
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "target_ongoing_requests": max(1.0, ongoing / 2),
        }
    }


def _engine(
    name: str, make: Callable[[], Any], replicas: Replicas, seconds: float, ongoing: int, *, forked: bool = False
) -> Any:
    return serve.deployment(**_options(name, replicas, seconds, ongoing))(EngineReplica).bind(make, forked)


def application(settings: ServeSettings) -> serve.Application:
    """Everything, bound together; the names of deployments are those of their Serve configuration."""
    limits, forked = settings.limits, settings.forked
    seconds = limits.seconds + HEALTH_TIMEOUT
    makers = {
        name: _engine(
            maker_name(name),
            partial(make_maker, name, one, settings.run, limits),
            one.replicas,
            seconds,
            ongoing=2,
            forked=forked,
        )
        for name, one in settings.generators.items()
    }
    tracer = partial(make_tracer, settings.run, settings.attributor, limits)
    chosen = settings.attributor
    options = _options(TRACER, chosen.replicas, seconds, ongoing=max(4, 2 * chosen.batch))  # the next batch waits there
    attributor = serve.deployment(**options)(TracerReplica).bind(tracer, chosen.batch, chosen.batch_wait, forked)
    audits = partial(make_audits, settings.run, settings.attributor.estimator, limits)
    gateway = serve.deployment(**_options(GATEWAY, settings.gateway, seconds, ongoing=settings.gateway.queue))
    bound: serve.Application = gateway(GatewayReplica).bind(
        settings,
        makers,
        attributor,
        _engine(CATALOGUE, partial(make_catalogue, settings.run, limits), settings.catalogue, seconds, ongoing=32),
        _engine(REVIEWS, partial(make_review_desk, settings.database_url), settings.reviews, seconds, ongoing=32),
        _engine(AUDITS, audits, settings.audits, seconds, ongoing=8, forked=forked),
        # One alone: it is what keeps two jobs from running at once.
        _engine(JOBS, partial(make_jobs, settings.run), Replicas(cpus=settings.jobs_cpus), seconds, ongoing=8),
    )
    return bound
