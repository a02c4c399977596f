"""The application on Ray Serve, as `forebear serve` starts it: one server for all of these tests."""

import queue
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from forebear.config import parse
from forebear.run import Run
from forebear_serve.addresses import is_loopback
from forebear_serve.application import build
from forebear_serve.client import RefusedError
from forebear_serve.database import Verdict
from forebear_serve.review_schemas import ReviewChange, ReviewRequest
from forebear_serve.schemas import Mode, Picture, Progressed, Timings, Traced
from forebear_serve.settings import ServeSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(start_server):
    return start_server()


def test_a_picture_and_its_ancestors_come_over_the_wire(server) -> None:
    with server.client() as client:
        told = list(client.stream(label=3, seed=1, steps=10, attribute=True))
        assert [type(one) for one in told] == [Progressed] * 10 + [Picture, Traced, Timings]
        assert told[-2].attributions[0].proponents
        assert set(client.health().parts.values()) == {"ok"}
        sample = client.samples(limit=1).samples[0]
        traced = client.attribute(sample, estimators=("retrac-matched",), top_k=1)
        assert traced.attributions[0].proponents[0].sample_id == sample.id


def test_replicas_and_calls_in_hand_are_told(server) -> None:
    with server.client() as client:
        told = client.metrics().splitlines()
        parts = list(client.health().parts)
    for part in [*parts, "gateway"]:
        assert f'forebear_replicas{{part="{part}",state="running"}} 1.0' in told
    for part in parts:
        assert any(line.startswith(f'forebear_pending_calls{{part="{part}"}} ') for line in told)


def test_reviews_are_written_and_exported_over_the_wire(server) -> None:
    with server.client() as client:
        sample = client.samples(limit=1).samples[0]
        (opened,) = client.create_reviews([ReviewRequest(sample_id=sample.id, note="over the wire")])
        change = ReviewChange(id=opened.review.id, version=opened.review.version, verdict=Verdict.REMOVE)
        (review,) = client.change_reviews([change])
        assert client.reviews(text="over the wire").reviews == (review,)
        with pytest.raises(RefusedError, match="changed") as refused:
            client.change_reviews([change])
        assert refused.value.status == 409
        assert client.export_reviews("deny").decode() == f"{sample.id}\n"
        assert client.export_reviews("parquet")[:4] == b"PAR1"
        with pytest.raises(RefusedError, match="nobody"):
            client.create_reviews([ReviewRequest(sample_id="nobody")])


def test_pictures_that_wait_are_embedded_together_and_a_bad_one_fails_alone(server) -> None:
    def ask(number: int) -> Traced | RefusedError:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        with server.client() as client:
            try:
                return client.attribute(Image.fromarray(pixels), label=99 if number % 6 == 3 else 1, mode=Mode.EXACT)
            except RefusedError as refused:
                return refused

    with ThreadPoolExecutor(6) as asking:
        for turn in range(20):  # until some have met; a batch tells each of its pictures the same seconds
            answers = list(asking.map(ask, range(6 * turn, 6 * turn + 6)))
            assert [type(one) for one in answers] == [Traced] * 3 + [RefusedError] + [Traced] * 2
            seconds = Counter(one.timings.stages["embed"] for one in answers if isinstance(one, Traced))
            if max(seconds.values()) > 1:
                return
    raise AssertionError("no two pictures were embedded together")


def test_engines_are_forked_from_one_process_and_their_replicas_load_no_torch(server, replicas) -> None:
    forks = forks_of(server)
    named = ("generator-fp32", "attributor", "audits")
    assert len(forks) == 1 + len(named)
    assert len({parent for parent in forks.values() if parent in forks}) == 1
    for name in named:
        (replica,) = replicas(server, name)
        assert "libtorch" not in Path(f"/proc/{replica}/maps").read_text(encoding="utf-8")


def test_a_request_in_flight_is_answered_before_the_server_goes(server) -> None:
    forks = forks_of(server)
    answers: queue.Queue[object] = queue.Queue()

    def ask() -> None:
        with server.client() as client:
            for event in client.stream(label=2, seed=2, steps=150, attribute=True):
                answers.put(event)

    asking = threading.Thread(target=ask)
    asking.start()
    assert isinstance(answers.get(timeout=60), Progressed)
    server.process.send_signal(signal.SIGTERM)
    asking.join(120)
    told = [answers.get_nowait() for _ in range(answers.qsize())]
    assert [type(one) for one in told[-3:]] == [Picture, Traced, Timings]
    assert server.process.wait(120) == 0
    assert not running_below(server.process.pid)
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in forks):
        assert time.monotonic() < until, "engines outlived their server"
        time.sleep(0.2)


def forks_of(server) -> dict[int, int]:
    """The fork server of a server's raylet and its engines: parents by process."""
    told = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}
    return {
        int(pid): int(parent)
        for pid, parent, args in rows
        if "-m forebear.forking" in args and parents.get(int(args.split()[-1])) == server.process.pid
    }


def running_below(session: int) -> list[str]:
    """Processes of a session that are still there."""
    time.sleep(1)
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--sid", str(session)], capture_output=True, text=True, check=False
    )
    return [line for line in found.stdout.splitlines() if "ray" in line]


@pytest.mark.parametrize("name", ["local.yaml", "cluster.yaml"])
def test_the_shipped_configurations_name_settings_that_there_are(name: str, served_run: Run) -> None:
    from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    described = yaml.safe_load((ROOT / "deploy" / "serve" / name).read_text())
    assert set(described) <= set(ServeDeploySchema.model_fields)
    assert set(described["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    ServeDeploySchema.model_validate(described)
    for application in described["applications"]:
        assert set(application) <= set(ServeApplicationSchema.model_fields)
        assert application["import_path"] == f"{build.__module__}:{build.__name__}"
        parse(ServeSettings, application["args"], name)
        # Built with a run that is here: names of deployments and options are taken by Ray Serve.
        build({**application["args"], "run": str(served_run.folder)})


def test_an_address_that_others_reach_wants_a_token_first(copied_run: Run, forebear_command: list[str]) -> None:
    for name in ("reviews.sqlite", "reviews.sqlite-wal", "reviews.sqlite-shm"):
        (copied_run.folder / name).unlink(missing_ok=True)
    refused = subprocess.run(
        [*forebear_command, "serve", "--run", str(copied_run.folder), "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "forebear token create" in refused.stderr
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("forebear.example")
