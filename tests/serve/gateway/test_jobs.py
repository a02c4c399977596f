"""/v1/jobs: real processes on a copy of the run, one at a time, watched, cancelled, known after a restart."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from forebear.jobs.events import EventLog, events_path
from forebear.run import Run
from forebear.store import Store
from forebear_serve.engine.jobs import Jobs, arguments
from forebear_serve.gateway.api import make_api
from forebear_serve.job_schemas import EmbedJob, EvaluateJob, EvaluateOptions, JobInfo, JobState
from forebear_serve.parts import LocalPart
from forebear_serve.problems import Problem

EMBED = EmbedJob(kind="embed")
LONG = ["/bin/sleep", "60"]


def ended(jobs: Jobs, job_id: str, seconds: float = 60.0) -> JobInfo:
    until = time.monotonic() + seconds
    while (info := jobs.get(job_id)).state is JobState.RUNNING:
        assert time.monotonic() < until, info
        time.sleep(0.05)
    return info


@pytest.fixture
def sleeping(copied_run: Run) -> Iterator[Jobs]:
    """Jobs that do nothing for a minute."""
    jobs = Jobs(copied_run.folder, lambda *_: LONG)
    yield jobs
    for one in jobs.all_jobs():
        jobs.cancel(one.id)
        ended(jobs, one.id)


@pytest.fixture
def admin(api: FastAPI, copied_run: Run, secrets: dict[str, str]) -> TestClient:
    """A client of an API with jobs."""
    core = api.state.core
    with_jobs = replace(core, parts=replace(core.parts, jobs=LocalPart(Jobs(copied_run.folder))))
    return TestClient(make_api(with_jobs), headers={"Authorization": f"Bearer {secrets['admin']}"})


@pytest.mark.slow
def test_a_job_does_the_work_of_the_command(admin: TestClient, copied_run: Run) -> None:
    """The store was not whole: the job makes what is missing, by the settings that the run was embedded with."""
    whole = Store.open(copied_run.store_folder).plan
    shard = next(file for file in copied_run.store_folder.rglob("shard-*.parquet"))
    content = shard.read_bytes()
    shard.unlink()
    started = admin.post("/v1/jobs", json={"kind": "embed"})
    assert started.status_code == 201, started.text
    job = started.json()
    assert (job["state"], job["actor"], job["exit_status"]) == ("running", "a admin", None)
    second = admin.post("/v1/jobs", json={"kind": "index"})
    assert second.status_code == 409
    assert job["id"] in second.json()["detail"]
    until = time.monotonic() + 90
    while (job := admin.get(f"/v1/jobs/{job['id']}").json())["state"] == "running":
        assert time.monotonic() < until
        time.sleep(0.2)
    assert (job["state"], job["exit_status"]) == ("succeeded", 0), job
    assert shard.read_bytes() == content
    assert Store.open(copied_run.store_folder).plan == whole
    assert job["progress"]["event"] == "end"
    assert job["progress"]["error"] is None
    assert any("embedded 24 images" in line for line in job["log"])
    assert "/tmp" not in str(job)
    (listed,) = admin.get("/v1/jobs").json()
    assert listed == {**job, "log": [], "progress": None}


def test_a_job_that_fails_says_why_without_paths(copied_run: Run) -> None:
    failing = ["/bin/sh", "-c", "for i in $(seq 100); do echo line $i; done; echo no such file: $0; exit 2"]
    jobs = Jobs(copied_run.folder, lambda *_: [*failing, str(copied_run.folder / "model")])
    info = ended(jobs, jobs.start(EMBED, "ana").id)
    assert (info.state, info.exit_status) == (JobState.FAILED, 2)
    assert info.log[-2:] == ("line 100", "no such file: model")
    assert len(info.log) == 40


def test_a_cancelled_job_ends_and_another_may_start(sleeping: Jobs) -> None:
    first = sleeping.start(EMBED, "ana")
    with pytest.raises(Problem, match="still runs") as conflict:
        sleeping.start(EMBED, "ben")
    assert conflict.value.status == 409
    sleeping.cancel(first.id)
    info = ended(sleeping, first.id)
    assert (info.state, info.exit_status) == (JobState.CANCELLED, 128 + signal.SIGTERM)
    assert sleeping.cancel(first.id).state is JobState.CANCELLED
    second = sleeping.start(EMBED, "ben")
    assert [one.state for one in sleeping.all_jobs()] == [JobState.RUNNING, JobState.CANCELLED]
    assert sleeping.all_jobs()[0].id == second.id


def test_a_restarted_server_knows_its_jobs(sleeping: Jobs, copied_run: Run) -> None:
    first = sleeping.start(EMBED, "ana")
    again = Jobs(copied_run.folder, lambda *_: LONG)
    assert again.get(first.id).state is JobState.RUNNING
    with pytest.raises(Problem, match="still runs"):
        again.start(EMBED, "ben")
    os.killpg(pid_of(copied_run, first.id), signal.SIGKILL)
    assert ended(again, first.id).state is JobState.INTERRUPTED
    assert ended(sleeping, first.id).state is JobState.INTERRUPTED
    assert again.start(EMBED, "ben").state is JobState.RUNNING


def test_progress_is_that_of_the_job_and_not_of_the_next_one(sleeping: Jobs, copied_run: Run) -> None:
    first = sleeping.start(EMBED, "ana")
    assert first.progress is None
    with EventLog(events_path(copied_run, "embedding")) as log:
        log({"event": "progress", "stage": "embedding", "done": 5, "total": 48})
        assert sleeping.all_jobs()[0].progress == sleeping.get(first.id).progress
        sleeping.cancel(first.id)
        ended(sleeping, first.id)
        second = sleeping.start(EMBED, "ana")
        log({"event": "end", "stage": "embedding", "done": 9, "error": f"cannot read {copied_run.folder}/x.png"})
    told = [sleeping.get(one.id).progress for one in (first, second)]
    assert [one["done"] for one in told if one] == [5, 9]
    assert told[1] is not None
    assert told[1]["error"] == "cannot read x.png"


def test_a_folder_that_takes_no_files_is_explained(copied_run: Run) -> None:
    (copied_run.folder / "jobs").write_text("in the way", encoding="utf-8")
    with pytest.raises(Problem, match="free or unlock the disk") as refused:
        Jobs(copied_run.folder, lambda *_: LONG).start(EMBED, "ana")
    assert refused.value.status == 503


def test_a_process_with_a_dead_jobs_number_is_not_taken_for_it(sleeping: Jobs, copied_run: Run) -> None:
    job = sleeping.start(EMBED, "ana")
    file = copied_run.folder / "jobs" / job.id / "job.json"
    record = file.read_text(encoding="utf-8")
    for name in ("born", "boot"):
        value = next(line for line in record.splitlines() if f'"{name}"' in line)
        file.write_text(record.replace(value, f'"{name}": "other"' + ("," if value.endswith(",") else "")))
        assert Jobs(copied_run.folder).get(job.id).state is JobState.INTERRUPTED
        Jobs(copied_run.folder).cancel(job.id)  # ends nothing of somebody else's
    file.write_text(record, encoding="utf-8")
    assert sleeping.get(job.id).state is JobState.RUNNING


def pid_of(run: Run, job_id: str) -> int:
    return int(json.loads((run.folder / "jobs" / job_id / "job.json").read_bytes())["pid"])


def test_what_the_command_is_called_with() -> None:
    run = Path("run")
    assert arguments(EMBED, run, Path("e.yaml")) == ["embed", "--run", "run", "--config", "e.yaml"]
    asked = EvaluateJob(kind="evaluate", options=EvaluateOptions(evaluation="tracing", estimators=("a",), queries=8))
    assert arguments(asked, run) == ["evaluate", "tracing", "--run", "run", "--estimator", "a", "--queries", "8"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "kind"),
        ({"kind": "train"}, "kind"),
        ({"kind": "embed", "options": {"restart": True}}, "restart"),
        ({"kind": "index", "options": {"estimators": ["--features"]}}, "estimators"),
        ({"kind": "evaluate"}, "options"),
        ({"kind": "evaluate", "options": {"evaluation": "lds", "queries": 5}}, "takes no number of queries"),
        ({"kind": "evaluate", "options": {"evaluation": "report", "estimators": ["retrac"]}}, "leave them out"),
    ],
)
def test_only_what_is_allowed_is_started(admin: TestClient, body: dict, words: str) -> None:
    answer = admin.post("/v1/jobs", json=body)
    assert (answer.status_code, words in answer.text) == (422, True), answer.text
    assert admin.get("/v1/jobs").json() == []


def test_unknown_jobs_are_not_found(admin: TestClient) -> None:
    for method in ("GET", "DELETE"):
        assert admin.request(method, "/v1/jobs/20260101T000000-00000000").status_code == 404
        assert admin.request(method, "/v1/jobs/..%2F..").status_code in {404, 422}
        assert admin.request(method, "/v1/jobs/x").status_code == 422
