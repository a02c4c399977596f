"""Runs the whole application on this machine: Ray is started for it, and drained when it is told to go."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from forebear.errors import ConfigError
from forebear_serve import proxy
from forebear_serve.addresses import is_loopback
from forebear_serve.database import Database, Scope, Tokens
from forebear_serve.settings import ServeSettings

APPLICATION = "forebear"
FIRST_TOKEN = "first"
DRAIN_EVERY = 0.2
"""Seconds between looks at what is in flight."""
SPARE_CPUS = 0.5
"""For Serve's controller and proxy."""


def first_token(settings: ServeSettings, host: str) -> str | None:
    """The secret of a token made now where there is none yet; None when there are some.

    Raises ConfigError rather than open an address that others reach without anybody having given out a token.
    """
    database = Database.open(settings.database_url)
    try:
        tokens = Tokens(database)
        if tokens.list():
            return None
        if not is_loopback(host):
            raise ConfigError(
                f"{host} is an address that other machines reach, and there is no token yet; make one with "
                f"`forebear token create NAME --run {settings.run}`, or serve on 127.0.0.1"
            )
        return tokens.create(FIRST_TOKEN, list(Scope))[1]
    finally:
        database.close()


def cpus_of(settings: ServeSettings) -> float:
    """What all deployments take with their most replicas."""
    replicas = [one.replicas for one in settings.generators.values()]
    replicas += [settings.attributor.replicas, settings.gateway, settings.catalogue]
    replicas += [settings.reviews, settings.audits]
    return sum(one.most * one.cpus for one in replicas) + settings.jobs_cpus


@contextmanager
def served(settings: ServeSettings, host: str, port: int, tell: Callable[[str], None]) -> Iterator[None]:
    """The application, answering at http://HOST:PORT/v1 inside the block; afterwards requests in flight are finished.

    `tell` hears what becomes ready. Ray runs for this process alone, unless RAY_ADDRESS names a cluster. Raises
    ConfigError when a deployment does not start, with the reason.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers step back otherwise: people wait for these
    os.environ.setdefault(proxy.CALLBACK, proxy.IMPORT_PATH)
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from forebear_serve.deployments import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    address = os.environ.get("RAY_ADDRESS") or "local"
    wanted = math.ceil(max(os.cpu_count() or 1, cpus_of(settings) + SPARE_CPUS))
    cpus = {"num_cpus": wanted} if address == "local" else {}
    ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error", **cpus)
    try:
        serve.start(http_options={"host": host, "port": port})
        try:
            with _told(tell):
                serve.run(application(settings), name=APPLICATION, route_prefix="/")
        except (RuntimeError, RayServeException) as failed:
            raise ConfigError(f"the services did not start: {failed}") from None
        yield
        _drain(settings.limits.seconds)
    finally:
        serve.shutdown()
        ray.shutdown()


def _drain(seconds: float) -> None:
    """Have the gateway turn new requests away, and wait until those in flight are answered.

    Deleting the application would end the other deployments while the gateway still needs them.
    """
    from ray import serve

    gateway, until = serve.get_app_handle(APPLICATION), time.monotonic() + seconds
    while gateway.close.remote().result() and time.monotonic() < until:
        time.sleep(DRAIN_EVERY)


@contextmanager
def _told(tell: Callable[[str], None]) -> Iterator[None]:
    """Say of each deployment when it is ready, until the block ends."""
    import threading

    from ray import serve

    ended, known = threading.Event(), set[str]()

    def look() -> None:
        while not ended.wait(0.5):
            found = serve.status().applications.get(APPLICATION)
            for name, one in (found.deployments if found else {}).items():
                if one.status.value == "HEALTHY" and name not in known:
                    known.add(name)
                    tell(f"{name} is ready")

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
