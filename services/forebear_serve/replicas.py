"""What runs in a replica: one engine, imported there alone, since most of them need neither torch nor a database."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forebear.forking import Forked, can_fork, own_server
from forebear_serve.parts import heard
from forebear_serve.settings import AttributorSettings, GeneratorSettings, Limits

if TYPE_CHECKING:
    from forebear_serve.engine.auditing import Audits
    from forebear_serve.engine.catalogue import Catalogue
    from forebear_serve.engine.jobs import Jobs
    from forebear_serve.engine.maker import Maker
    from forebear_serve.engine.reviewing import ReviewDesk
    from forebear_serve.engine.tracer import Tracer

LIBRARIES = "forebear_serve.engine.libraries:import_libraries"
"""What is called in the process that engines are forked from."""
CHECK_EVERY = 10.0
"""Seconds for which an engine that passed its check is not asked to again."""


class EngineReplica:
    """One engine; its methods run in threads, so that health checks are always answered."""

    def __init__(self, make: Callable[[], Any], forked: bool = False) -> None:
        """`forked` has the engine in a process of its own, which is there sooner than one that imports torch."""
        self._engine = Forked(make, _own_name(), own_server(LIBRARIES)) if forked and can_fork() else make()
        self._passed = -math.inf

    async def call(self, method: str, *args: Any) -> Any:
        return await asyncio.to_thread(self._method(method), *args)

    async def stream(self, method: str, *args: Any) -> AsyncIterator[Any]:
        async for event in heard(partial(self._method(method), *args)):
            yield event

    async def check_health(self) -> None:
        """Ray Serve asks often, because that is how it notices a replica that is gone; engines are asked less often."""
        if time.monotonic() - self._passed >= CHECK_EVERY:
            await self.call("check")
            self._passed = time.monotonic()

    def _method(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name} is not for callers")
        found: Callable[..., Any] = getattr(self._engine, name)
        return found


class TracerReplica(EngineReplica):
    """A tracer that embeds together what is asked meanwhile: a batch takes less time than its pictures alone."""

    def __init__(self, make: Callable[[], Any], most: int, wait: float, forked: bool = False) -> None:
        """`most` pictures to a batch; the first one waits `wait` seconds for others."""
        from ray import serve

        super().__init__(make, forked)
        self._idle = asyncio.Event()
        self._idle.set()

        @serve.batch(max_batch_size=most, batch_wait_timeout_s=wait)  # type: ignore[untyped-decorator]
        async def together(queries: list[Any]) -> list[Any]:
            self._idle.clear()
            try:
                return [(answer,) for answer in await asyncio.to_thread(self._engine.trace_all, queries)]
            finally:
                self._idle.set()

        self._together = together

    async def call(self, method: str, *args: Any) -> Any:
        if method != "trace" or any(early is not None for early in args[1:]):
            return await super().call(method, *args)
        # Ray Serve would close a batch at once, also one that cannot begin yet: they gather here for as long as that.
        await self._idle.wait()
        (answer,) = await self._together(args[0])
        if isinstance(answer, Exception):
            raise answer
        return answer


def make_maker(name: str, settings: GeneratorSettings, run: Path, limits: Limits) -> "Maker":
    from forebear_serve.engine.maker import Maker

    _use_one_thread()
    return Maker(name, settings, run, limits)


def make_tracer(run: Path, settings: AttributorSettings, limits: Limits) -> "Tracer":
    from forebear_serve.engine.tracer import Tracer

    _use_one_thread()
    return Tracer(run, settings, limits)


def make_audits(run: Path, estimator: str, limits: Limits) -> "Audits":
    from forebear_serve.engine.auditing import Audits

    _use_one_thread()
    return Audits(run, estimator, limits)


def make_catalogue(run: Path, limits: Limits) -> "Catalogue":
    from forebear_serve.engine.catalogue import Catalogue

    return Catalogue(run, limits)


def make_review_desk(url: str) -> "ReviewDesk":
    from forebear_serve.engine.reviewing import ReviewDesk

    return ReviewDesk(url)


def make_jobs(run: Path) -> "Jobs":
    from forebear_serve.engine.jobs import Jobs

    return Jobs(run)


def _own_name() -> str:
    """Of the deployment whose replica this is."""
    from ray import serve

    return str(serve.get_replica_context().deployment)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # two processes of one thread are faster than one of two
