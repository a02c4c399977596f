"""Callers that ask a server all the time, each one question after the other, and note every answer."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx2

from forebear.errors import ForebearError
from forebear_serve.client import Client

PAUSE = 0.1
Question = Callable[[Client], object]


@dataclass(frozen=True)
class Outcome:
    """One call of a client's method, however often it asked the server."""

    question: str
    began: float
    seconds: float
    error: str | None


class CountedTransport(httpx2.HTTPTransport):
    """Plain HTTP, which notes the status of every answer, also of those that the client asks again after."""

    def __init__(self, statuses: Counter[str]) -> None:
        super().__init__()
        self._statuses = statuses

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            answer = super().handle_request(request)
        except httpx2.TransportError as failed:
            self._statuses[type(failed).__name__] += 1
            raise
        self._statuses[str(answer.status_code)] += 1
        return answer


@dataclass
class Asked:
    """What callers were answered."""

    outcomes: list[Outcome] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    """Of HTTP answers; more than outcomes where the client asked again."""

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.error is not None]

    def answered_since(self, moment: float) -> set[str]:
        """Questions that were asked and answered after a moment."""
        return {one.question for one in self.outcomes if one.began >= moment and one.error is None}

    def longest(self) -> dict[str, float]:
        """Seconds, by question."""
        questions = {one.question for one in self.outcomes}
        return {name: max(one.seconds for one in self.outcomes if one.question == name) for name in sorted(questions)}

    def quiet(self) -> float:
        """The longest time in which nobody was answered, in seconds."""
        ends = sorted(one.began + one.seconds for one in self.outcomes if one.error is None)
        return max((later - earlier for earlier, later in pairwise(ends)), default=0.0)

    def summary(self) -> str:
        longest = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.longest().items())
        errors = Counter(f"{one.question}: {one.error}" for one in self.failed)
        return (
            f"{len(self.outcomes)} calls, {len(self.failed)} failed {dict(errors) or ''}, HTTP answers "
            f"{dict(self.statuses)}, longest: {longest}; at most {self.quiet():.1f} s without any answer"
        )


@contextmanager
def asking(address: str, token: str, questions: Mapping[str, Question]) -> Iterator[Asked]:
    """Ask each question again and again, by a client of its own, until the block ends."""
    asked, ended = Asked(), threading.Event()

    def ask(name: str, question: Question) -> None:
        with Client(address, token, transport=CountedTransport(asked.statuses)) as client:
            while not ended.is_set():
                began, error = time.monotonic(), None
                try:
                    question(client)
                except ForebearError as refused:
                    error = f"{type(refused).__name__}: {refused}"[:200]
                asked.outcomes.append(Outcome(name, began, time.monotonic() - began, error))
                time.sleep(PAUSE)

    threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in questions.items()]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        ended.set()
        for thread in threads:
            thread.join(200)
