"""Replicas and the controller killed while clients ask: requests are done again or fail clearly, nothing is lost."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from forebear.errors import ForebearError
from forebear_serve.client import Client
from forebear_serve.problems import MEDIA_TYPE
from forebear_serve.review_schemas import ReviewRequest

pytestmark = pytest.mark.slow
ASKERS = 3
ALLOWED = {"200", "429"}
"""Outcomes of requests while a replica is killed; 429 is the token's rate. A gateway's requests die with it: 503."""


@pytest.fixture(scope="module")
def server(start_server):
    return start_server()


class Asking:
    """Clients that never ask again: for metrics, for pictures with ancestors, and for a review of each picture."""

    def __init__(self, server) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.reviews: list[int] = []
        """Ids of those that the server confirmed."""
        self._server, self._ended = server, threading.Event()
        self._askers = [threading.Thread(target=self._ask, args=(number,)) for number in range(ASKERS)]

    def __enter__(self) -> "Asking":
        for asker in self._askers:
            asker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for asker in self._askers:
            asker.join(120)

    def _ask(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {self._server.secret}"}
        seed = number * 10**9 + time.time_ns() % 10**8
        with httpx2.Client(base_url=self._server.address, headers=headers, timeout=150) as http:
            while not self._ended.is_set():
                seed += 1
                self._sent(http, "GET", "/v1/metrics")
                made = self._sent(http, "POST", "/v1/generate", {"label": 1, "seed": seed, "steps": 5, "attribute": {}})
                if made is None:
                    continue
                picture = made.json()
                first = picture["traced"]["attributions"][0]["proponents"][0]["sample_id"]
                asked = {"sample_id": first, "picture_id": picture["picture"]["id"]}
                opened = self._sent(http, "POST", "/v1/reviews", {"reviews": [asked]})
                if opened is not None:
                    self.reviews.append(opened.json()[0]["review"]["id"])

    def _sent(self, http: httpx2.Client, method: str, path: str, body: dict | None = None) -> httpx2.Response | None:
        try:
            answer = http.request(method, path, json=body)
        except httpx2.TransportError as lost:
            self.outcomes[type(lost).__name__] += 1
            return None
        self.outcomes[str(answer.status_code)] += 1
        if answer.is_success:
            return answer
        explained = answer.headers["Content-Type"] == MEDIA_TYPE and answer.headers.get("Retry-After", "").isdecimal()
        if not explained:
            self.wrong.append(answer.text)
        time.sleep(0.2)
        return None


@pytest.mark.parametrize("name", ["generator-fp32", "attributor", "gateway", "reviews", "catalogue", "ServeController"])
def test_the_service_is_back_after_a_kill(server, replicas, name: str, record_testsuite_property) -> None:
    with Asking(server) as asking:
        time.sleep(3)
        (victim,) = replicas(server, name)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        back = wait_until(lambda: answered(server) and replaced(replicas(server, name), victim), killed + 90)
        computed = max(map(processor_seconds, replicas(server, name)))
        time.sleep(3)
    told = f"{dict(asking.outcomes)}, {len(asking.reviews)} reviews, back after {back - killed:.1f} s"
    told += f", of which the new process computed {computed:.1f} s"
    record_testsuite_property(f"kill of {name}", told)
    assert asking.wrong == []
    assert asking.outcomes["200"] > ASKERS
    assert set(asking.outcomes) <= ALLOWED | ({"503"} if name == "gateway" else set())
    with Client(server.address, server.secret) as client:
        assert {client.review(one).id for one in asking.reviews} == set(asking.reviews)


def processor_seconds(pid: int) -> float:
    """That a process has used: what it would take at least on a machine of its own."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def replaced(now: list[int], victim: int) -> bool:
    return bool(now) and victim not in now


def answered(server) -> bool:
    try:
        with Client(server.address, server.secret, retries=0, seconds=30) as client:
            made = client.generate(label=2, seed=time.time_ns() % 2**40, steps=2, attribute=True)
            client.create_reviews([ReviewRequest(sample_id=made.traced.attributions[0].proponents[0].sample_id)])
    except ForebearError:
        return False
    return True


def wait_until(holds: Callable[[], bool], until: float) -> float:
    while not holds():
        assert time.monotonic() < until, "not back in time"
        time.sleep(0.2)
    return time.monotonic()
