"""Replicas and the controller killed while clients ask: requests fail clearly or are done again, nothing is lost."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from forebear.errors import ForebearError
from forebear_serve.client import Client, RefusedError, UnreachableError
from forebear_serve.database import Database, NewReview, Reviews

pytestmark = pytest.mark.slow
ASKING_SECONDS = 20.0


@pytest.fixture(scope="module")
def server(start_server):
    return start_server()


@pytest.mark.parametrize("name", ["generator-fp32", "attributor", "gateway", "ServeController"])
def test_the_service_is_back_after_a_kill(server, replicas, name: str, record_testsuite_property) -> None:
    ended, outcomes = threading.Event(), Counter[str]()

    def ask(number: int) -> None:
        with Client(server.address, server.secret, retries=0) as client:
            seed = number * 1_000_000
            while not ended.is_set():
                seed += 1
                try:
                    client.generate(label=1, seed=seed, steps=5, attribute=True)
                    outcomes["answered"] += 1
                except RefusedError as refused:
                    outcomes[str(refused.status)] += 1
                except UnreachableError:
                    outcomes["unreachable"] += 1
                time.sleep(0.05)

    askers = [threading.Thread(target=ask, args=(number + hash(name) % 1000,)) for number in range(3)]
    for asker in askers:
        asker.start()
    time.sleep(3)
    (victim,) = replicas(server, name)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    time.sleep(1)
    back = wait_until(lambda: answered(server) and bool(replicas(server, name)), killed + 60)
    time.sleep(3)
    ended.set()
    for asker in askers:
        asker.join(60)
    record_testsuite_property(f"kill of {name}", f"{dict(outcomes)}, back after {back - killed:.1f} s")
    assert outcomes["answered"] > 3
    assert set(outcomes) <= {"answered", "503", "429", "500", "unreachable"}


def answered(server) -> bool:
    try:
        with Client(server.address, server.secret, retries=0, seconds=20) as client:
            client.generate(label=2, seed=time.time_ns() % 2**40, steps=2, attribute=True)
    except ForebearError:
        return False
    return True


def wait_until(holds: Callable[[], bool], until: float) -> float:
    while not holds():
        assert time.monotonic() < until, "not back in time"
        time.sleep(0.2)
    return time.monotonic()


def test_reviews_that_were_confirmed_survive_everything(server, replicas) -> None:
    database = Database.open(f"sqlite:///{server.run.folder / 'reviews.sqlite'}")
    (review, new) = Reviews(database).create(NewReview("digits", "sample"), actor="test")
    assert new
    (victim,) = replicas(server, "reviews")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: answered(server) and bool(replicas(server, "reviews")), time.monotonic() + 60)
    assert Reviews(database).get(review.id) == review
