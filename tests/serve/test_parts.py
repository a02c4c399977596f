"""How the gateway hears what engines tell from their threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError

from forebear.errors import ConfigError
from forebear_serve.parts import RETRIES, LocalPart, ServedPart, heard
from forebear_serve.problems import Problem


def test_everything_told_is_heard_in_order_and_errors_come_last() -> None:
    def work(hear: Callable[[int], None]) -> None:
        for number in range(100):
            hear(number)
        raise ConfigError("enough")

    async def listen() -> list[int]:
        events = heard(work)
        found = [await anext(events) for _ in range(100)]
        with pytest.raises(ConfigError, match="enough"):
            await anext(events)
        return found

    assert asyncio.run(listen()) == list(range(100))


def test_work_that_nobody_listens_to_any_more_ends_at_its_next_word() -> None:
    told, ended, go_on = [], threading.Event(), threading.Event()

    def work(hear: Callable[[int], None]) -> None:
        try:
            for number in range(1000):
                told.append(number)
                hear(number)
                if number == 1:
                    go_on.wait(10)
        finally:
            ended.set()

    async def leave() -> None:
        events = heard(work)
        assert await anext(events) == 0
        await events.aclose()
        go_on.set()
        assert await asyncio.to_thread(ended.wait, 10)

    asyncio.run(leave())
    assert len(told) <= 3


def test_a_call_raises_what_the_engine_raises() -> None:
    class Engine:
        def half(self, number: int) -> float:
            if number % 2:
                raise ConfigError("odd")
            return number / 2

    async def ask() -> None:
        part = LocalPart(Engine())
        assert await part.call("half", 4) == 2
        with pytest.raises(ConfigError, match="odd"):
            await part.call("half", 3)

    asyncio.run(ask())


class DyingHandle:
    """Of a deployment whose replica dies in the middle of an answer, so many times."""

    def __init__(self, deaths: int) -> None:
        self._deaths = deaths
        self.stream = self

    def options(self, *, stream: bool) -> "DyingHandle":
        assert stream
        return self

    async def remote(self, method: str, last: int) -> AsyncIterator[Any]:
        for number in range(last):
            if number == last // 2 and self._deaths:
                self._deaths -= 1
                raise RayActorError(error_msg=f"killed in {method}")
            yield number


@pytest.mark.parametrize("deaths", [0, 1, RETRIES, RETRIES + 1])
def test_a_stream_whose_replica_dies_is_told_again_from_the_beginning(deaths: int) -> None:
    told: list[int] = []

    async def listen() -> None:
        async for number in ServedPart(DyingHandle(deaths)).stream("make", 4):
            told.append(number)  # noqa: PERF401 - what was told before an error counts

    if deaths > RETRIES:
        with pytest.raises(Problem, match="being replaced") as refused:
            asyncio.run(listen())
        assert refused.value.status == 503
        assert refused.value.headers["Retry-After"].isdecimal()
        assert told == [0, 1] * deaths
    else:
        asyncio.run(listen())
        assert told == [0, 1] * deaths + [0, 1, 2, 3]
