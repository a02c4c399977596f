"""How the gateway reaches the other parts: as objects of its own process, or as deployments of Ray Serve."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from forebear.errors import ForebearError
from forebear_serve.problems import Problem, busy, unavailable

RETRIES = 2
"""Of a call whose replica died: every call either reads, or writes the same thing again."""
BUSY_SECONDS = 5
"""After which a caller may ask a full deployment again."""


class Part(Protocol):
    """One engine class, wherever it runs."""

    pending: int
    """Calls of this process that are not answered yet: being worked at, or waiting for a replica."""

    async def call(self, method: str, *args: Any) -> Any:
        """What the method returns; raises what it raises, and Problem 429 or 503 when nobody can take the call."""

    def stream(self, method: str, *args: Any) -> AsyncGenerator[Any]:
        """What the method tells its listener, which it takes as its last argument.

        It is told from the beginning again when the replica that was telling it has died.
        """


@dataclass(frozen=True)
class Parts:
    """Everything that the gateway asks."""

    makers: Mapping[str, Part]
    """By the generator's name."""
    tracer: Part
    catalogue: Part
    reviews: Part
    audits: Part
    jobs: Part

    def named(self) -> dict[str, Part]:
        """Each by the name that people read."""
        makers = {f"generator {name}": part for name, part in self.makers.items()}
        rest = {"attributor": self.tracer, "catalogue": self.catalogue, "reviews": self.reviews}
        return makers | rest | {"audits": self.audits, "jobs": self.jobs}


class _Counting:
    """Counts calls while they are answered."""

    def __init__(self) -> None:
        self.pending = 0

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1


class LocalPart(_Counting):
    """An engine in this process, its methods run in threads."""

    def __init__(self, engine: object) -> None:
        super().__init__()
        self._engine = engine

    async def call(self, method: str, *args: Any) -> Any:
        with self._counted():
            return await asyncio.to_thread(getattr(self._engine, method), *args)

    async def stream(self, method: str, *args: Any) -> AsyncGenerator[Any]:
        with self._counted():
            async with aclosing(heard(partial(getattr(self._engine, method), *args))) as told:
                async for event in told:
                    yield event


class ServedPart(_Counting):
    """A deployment of Ray Serve, by its handle."""

    def __init__(self, handle: Any) -> None:
        super().__init__()
        self._handle = handle

    async def call(self, method: str, *args: Any) -> Any:
        with self._counted():
            return await self._called(method, *args)

    async def stream(self, method: str, *args: Any) -> AsyncGenerator[Any]:
        with self._counted():
            async with aclosing(self._told(method, *args)) as told:
                async for event in told:
                    yield event

    async def _called(self, method: str, *args: Any) -> Any:
        left = RETRIES
        while True:
            try:
                return await self._handle.call.remote(method, *args)
            except Exception as error:
                if not left or not _died(error):
                    raise _explained(error) from None
                left -= 1

    async def _told(self, method: str, *args: Any) -> AsyncGenerator[Any]:
        left = RETRIES
        while True:
            told = self._handle.options(stream=True).stream.remote(method, *args)
            try:
                async for event in told:
                    yield event
            except Exception as error:
                if not left or not _died(error):
                    raise _explained(error) from None
                left -= 1
            else:
                return


def _died(error: Exception) -> bool:
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import DeploymentUnavailableError

    return isinstance(error, RayActorError | DeploymentUnavailableError)


def _explained(error: Exception) -> Exception:
    """What the other side raised, or the problem that Ray had with the call."""
    from ray.exceptions import RayTaskError
    from ray.serve.exceptions import BackPressureError

    if isinstance(error, RayTaskError) and isinstance(error.cause, ForebearError | Problem):
        return error.cause
    if isinstance(error, BackPressureError):
        return busy("the server has as much to do as it takes on; ask again", BUSY_SECONDS)
    if _died(error):
        return unavailable("this part of the server is being replaced; ask again")
    return error


class _Abandoned(Exception):  # noqa: N818 - no error: nobody listens any more
    pass


async def heard(work: Callable[[Callable[[Any], None]], None]) -> AsyncGenerator[Any]:
    """What `work` tells the listener that it is given, from a thread of its own.

    When nobody iterates any more, the listener raises, which ends the work at its next word.
    """
    loop, queue, left = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()
    ended = object()

    def hear(event: Any) -> None:
        if left.is_set():
            raise _Abandoned
        loop.call_soon_threadsafe(queue.put_nowait, event)

    def run() -> None:
        try:
            work(hear)
        except _Abandoned:
            return
        finally:
            if not left.is_set():
                loop.call_soon_threadsafe(queue.put_nowait, ended)

    task = loop.run_in_executor(None, run)
    try:
        while (event := await queue.get()) is not ended:
            yield event
        await task
    finally:
        left.set()
