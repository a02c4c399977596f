"""Long work on the run: embedding, indexing, evaluating."""

from typing import Annotated

from fastapi import APIRouter, Depends

from forebear_serve.gateway.access import ADMIN, Admin
from forebear_serve.gateway.core import Gateway
from forebear_serve.gateway.errors import refused
from forebear_serve.job_schemas import JobId, JobInfo, JobRequest
from forebear_serve.parts import Part

router = APIRouter(prefix="/jobs", tags=["jobs"])


def jobs_of(core: Gateway) -> Part:
    """Where jobs are started."""
    return core.parts.jobs


JobsPart = Annotated[Part, Depends(jobs_of)]


@router.post("", status_code=201, responses=refused(401, 403, 409, 413, 422, 429, 503))
async def start_job(asked: JobRequest, token: Admin, jobs: JobsPart) -> JobInfo:
    """Start work on the run that is served, as the `forebear` command of this name does; one job runs at a time.

    A job that was interrupted or cancelled goes on when the same one is started again.
    """
    info: JobInfo = await jobs.call("start", asked, token.name)
    return info


@router.get("", responses=refused(401, 403, 429, 503), dependencies=[ADMIN])
async def jobs(jobs: JobsPart) -> tuple[JobInfo, ...]:
    """The last hundred jobs of this run, the newest first."""
    found: tuple[JobInfo, ...] = await jobs.call("all_jobs")
    return found


@router.get("/{job_id}", responses=refused(401, 403, 404, 422, 429, 503), dependencies=[ADMIN])
async def job(job_id: JobId, jobs: JobsPart) -> JobInfo:
    """How a job stands, and the end of its log."""
    info: JobInfo = await jobs.call("get", job_id)
    return info


@router.delete("/{job_id}", responses=refused(401, 403, 404, 422, 429, 503), dependencies=[ADMIN])
async def cancel_job(job_id: JobId, jobs: JobsPart) -> JobInfo:
    """Ask a job to stop. What it has done stays; the same job, started again, goes on from there."""
    info: JobInfo = await jobs.call("cancel", job_id)
    return info
