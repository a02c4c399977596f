"""Three hosts with the shipped start commands: work and services while a host is cut off, told to end, or replaced.

Half an hour on two cores, so it runs when it is asked for: `FOREBEAR_TRIAL=1 pytest -m slow tests/cluster`. The tests
are steps of one trial and follow each other; docs/cluster-trial.md says what they showed.
"""

import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster_trial.asking import Asked, Question, asking
from cluster_trial.embedding import Embedding, store_bytes
from cluster_trial.hosts import Host, without_namespaces
from cluster_trial.ray_hosts import CLIENT_PORT, RayHosts, wait_for
from cluster_trial.services import UNLIMITED, Services, configuration

from forebear.run import Run
from forebear_serve.client import Client
from forebear_serve.job_schemas import JobInfo, JobState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("FOREBEAR_TRIAL" not in os.environ, reason="half an hour of both cores; set FOREBEAR_TRIAL=1"),
]
CANNOT_CUT = without_namespaces() if "FOREBEAR_TRIAL" in os.environ else "not asked for"
cuts = pytest.mark.skipif(CANNOT_CUT is not None, reason=f"no host can be cut off: {CANNOT_CUT}")
LOSING = 240.0
"""Seconds within which Ray gives a silent host up: five checks of up to ten seconds, and what a busy machine adds."""
SHARDS = 120
OVER_RAY = Path(__file__).parent / "cluster_trial" / "over_ray.py"


@pytest.fixture(scope="module")
def services(cluster: RayHosts, quiet_run: Run) -> Services:
    return Services.deployed(cluster, quiet_run)


@pytest.fixture(scope="module")
def questions(services: Services) -> Mapping[str, Question]:
    with services.client() as client:
        sample = client.samples(limit=1).samples[0]
    return {
        "samples": lambda client: client.samples(limit=5),
        "attribute": lambda client: client.attribute(sample, top_k=3),
    }


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """Lines for whoever runs the trial, also where it passes."""
    lines: list[str] = []
    yield lines
    with capsys.disabled():
        sys.stderr.writelines(f"\ntrial: {line}" for line in lines)


def lost(cluster: RayHosts, host: Host) -> bool:
    nodes = cluster.nodes()
    return bool(nodes) and host.address not in nodes.values()


def test_three_hosts_embed_to_the_bytes_of_one_process(
    cluster: RayHosts, trained_run: Run, quiet_run: Run, told: list[str]
) -> None:
    started = time.monotonic()
    with Embedding(cluster, trained_run, "spread") as embedding:
        embedding.finish()
    told.append(f"embedded on three hosts in {time.monotonic() - started:.0f} s, {dict(embedding.happened())}")
    assert store_bytes(embedding.run) == store_bytes(quiet_run)
    assert embedding.happened() == {"begin": SHARDS, "end": SHARDS}


@cuts
def test_an_embedding_loses_what_a_cut_off_host_was_at(
    cluster: RayHosts, trained_run: Run, quiet_run: Run, told: list[str]
) -> None:
    with Embedding(cluster, trained_run, "cut") as embedding:
        victim = cluster.workers[1]
        wait_for(lambda: embedding.processes() & set(victim.processes()), "work on the victim", 300, pause=0.05)
        done, moment = embedding.done(), time.monotonic()
        victim.cut()
        try:
            wait_for(lambda: lost(cluster, victim), "the loss of a host", LOSING)
            noticed = time.monotonic() - moment
            wait_for(lambda: cluster.ended(victim), "the end of its `ray start`", LOSING)
        finally:
            victim.heal()
        embedding.finish()
    cluster.restart(victim)
    happened = embedding.happened()
    tries_lost = happened["begin"] - happened["end"] - happened["kept"]
    retried = [event for event in embedding.events() if event["event"] == "retried"]
    told.append(f"cut off at shard {done} of {SHARDS}, lost for Ray after {noticed:.0f} s")
    told.append(f"{dict(happened)}, {tries_lost} tries lost, retried {[one['reason'][:80] for one in retried]}")
    assert store_bytes(embedding.run) == store_bytes(quiet_run)
    assert len(retried) <= 1  # a worker is at one shard, and a host of one CPU has one worker
    assert happened["begin"] <= SHARDS + 1


def test_ray_and_http_give_the_same_answers(services: Services, told: list[str]) -> None:
    done = over_ray(services)
    assert done.returncode == 0, done.stdout
    told += [line for line in done.stdout.splitlines() if "the same answers" in line]


def test_a_wrong_token_is_told_clearly(services: Services, told: list[str]) -> None:
    done = over_ray(services, RAY_AUTH_TOKEN="f" * 64)
    assert done.returncode == 1
    assert "refuses the token" in done.stdout
    assert "Traceback" not in done.stdout
    told.append(done.stdout.strip().splitlines()[-1])


def over_ray(services: Services, **environment: str) -> Any:
    """The comparison, on a worker host: a program that is no member of the cluster."""
    addresses = [f"ray://{services.cluster.head.address}:{CLIENT_PORT}", services.address, services.token]
    command = [sys.executable, str(OVER_RAY), *addresses]
    return services.cluster.run(services.cluster.workers[0], command, 300, **environment)


def wait_for_answers(asked: Asked, questions: Iterable[str]) -> None:
    moment = time.monotonic()
    wait_for(lambda: asked.answered_since(moment) == set(questions), "answers to all questions", 300)


def test_a_host_that_is_told_to_end_finishes_its_requests(
    services: Services, questions: Mapping[str, Question], told: list[str]
) -> None:
    cluster, host = services.cluster, services.host_of("generator-fp32")
    assert host is not cluster.head, services.placed()
    seeds = itertools.count(1)
    pictures = {"generate": lambda client: client.generate(label=1, seed=next(seeds), steps=100)}
    with asking(services.address, services.token, {**questions, **pictures}) as asked:
        wait_for_answers(asked, [*questions, *pictures])
        signalled = time.monotonic()
        cluster.terminate(host)
        wait_for(lambda: cluster.ended(host), "the end of `ray start`", 300)
        told.append(f"{host.name} ended {time.monotonic() - signalled:.0f} s after SIGTERM")
        wait_for_answers(asked, [*questions, *pictures])
    cluster.restart(host)
    services.wait_until_running()
    told.append(f"{asked.summary()}; now {services.placed()}")
    assert not asked.failed, asked.failed


@cuts
def test_services_answer_while_a_host_is_cut_off_and_comes_back(
    services: Services, questions: Mapping[str, Question], told: list[str]
) -> None:
    cluster = services.cluster
    victim = max(cluster.workers, key=lambda host: sum(services.placed().get(host.name, {}).values()))
    told.append(f"{victim.name} of {services.placed()}")
    with asking(services.address, services.token, questions) as asked:
        wait_for_answers(asked, questions)
        moment = time.monotonic()
        victim.cut()
        try:
            wait_for(lambda: lost(cluster, victim), "the loss of a host", LOSING)
            told.append(f"lost for Ray after {time.monotonic() - moment:.0f} s")
            wait_for_answers(asked, questions)
            wait_for(lambda: cluster.ended(victim), "the end of its `ray start`", LOSING)
        finally:
            victim.heal()
        cluster.restart(victim)
        services.wait_until_running()
        wait_for_answers(asked, questions)
    told.append(asked.summary())
    assert len(asked.failed) <= 1, asked.failed


def test_a_new_version_is_deployed_without_a_lost_request(
    services: Services, questions: Mapping[str, Question], told: list[str]
) -> None:
    old = {replica for _, replica, _ in services.replicas()}
    with asking(services.address, services.token, questions) as asked:
        wait_for_answers(asked, questions)
        started = time.monotonic()
        services.deploy(configuration(services.run, limits=UNLIMITED | {"page": 400}))
        wait_for(lambda: replaced(services, old), "new replicas", 1200, pause=2.0)
        told.append(f"every replica was replaced after {time.monotonic() - started:.0f} s")
        wait_for_answers(asked, questions)
    told.append(asked.summary())
    assert not asked.failed, asked.failed


def replaced(services: Services, old: set[str]) -> bool:
    now = {replica for _, replica, _ in services.replicas()}
    return services.application().get("status") == "RUNNING" and bool(now) and not now & old


def test_jobs_are_done_by_a_replica_of_the_cluster(services: Services, told: list[str]) -> None:
    file = services.run.settings_file
    file.write_text(file.read_text().replace("limit: 60", "limit: 66"))  # six new pictures
    with services.client() as client:
        for kind, options in (("embed", {"grow": True}), ("index", {})):
            ended = finished(client, client.start_job(kind, **options).id)
            assert ended.state is JobState.SUCCEEDED, ended.log
            told.append(f"{kind}: {ended.log[-1]}")
    assert any("66 images" in line for line in told)


def finished(client: Client, job: str) -> JobInfo:
    wait_for(lambda: client.job(job).state is not JobState.RUNNING, "the end of the job", 600, pause=2.0)
    return client.job(job)
