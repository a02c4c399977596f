"""The calls about jobs, as `calls` has the others."""

from typing import Any

from pydantic import TypeAdapter

from forebear_serve.client.calls import Call, quoted, read_as
from forebear_serve.job_schemas import EmbedJob, EvaluateJob, IndexJob, JobInfo, JobRequest

REQUEST: TypeAdapter[EmbedJob | IndexJob | EvaluateJob] = TypeAdapter(JobRequest)


def start_job(kind: str, options: dict[str, Any]) -> Call[JobInfo]:
    """Not repeatable: the first one may run already."""
    body = REQUEST.validate_python({"kind": kind, "options": options}).model_dump(mode="json")
    return Call("POST", "/jobs", read_as(JobInfo), body=body, repeatable=False)


def jobs() -> Call[tuple[JobInfo, ...]]:
    return Call("GET", "/jobs", read_as(tuple[JobInfo, ...]))


def job(job_id: str) -> Call[JobInfo]:
    return Call("GET", f"/jobs/{quoted(job_id)}", read_as(JobInfo))


def cancel_job(job_id: str) -> Call[JobInfo]:
    return Call("DELETE", f"/jobs/{quoted(job_id)}", read_as(JobInfo))
