"""What stands out in the training set."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from forebear_serve.audit_schemas import (
    Concentration,
    DuplicatePage,
    GroupsAudit,
    InfluentialPage,
    Nearness,
    Norms,
    OutlierPage,
    OutlierScore,
)
from forebear_serve.gateway.access import READ
from forebear_serve.gateway.core import Gateway
from forebear_serve.gateway.errors import refused
from forebear_serve.parts import Part

router = APIRouter(prefix="/audits", tags=["audits"], responses=refused(401, 403, 422, 429, 503), dependencies=[READ])


def audits_of(core: Gateway) -> Part:
    """Where audits are computed."""
    return core.parts.audits


Audited = Annotated[Part, Depends(audits_of)]
Estimator = Annotated[str | None, Query(max_length=100, description="By name; null: the server's default.")]
After = Annotated[int, Query(ge=0, le=2**62, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=500)]


@router.get("/outliers")
async def outliers(
    audits: Audited,
    estimator: Estimator = None,
    score: OutlierScore = OutlierScore.SELF,
    after: After = 0,
    limit: Limit = 60,
) -> OutlierPage:
    """Training images that are unlike the others, or learnt from themselves alone, the strangest first.

    An audit is computed when it is first asked for. Where that takes longer than a request may, the answer is 503 with
    Retry-After, and the work goes on.
    """
    page: OutlierPage = await audits.call("outliers", estimator, score, after, limit)
    return page


@router.get("/influential")
async def influential(
    audits: Audited, estimator: Estimator = None, after: After = 0, limit: Limit = 60
) -> InfluentialPage:
    """Training images that score high, or low, whatever is asked: the generally influential ones first.

    Some training images stand for random queries; what an image gives to itself does not count.
    """
    page: InfluentialPage = await audits.call("influential", estimator, after, limit)
    return page


@router.get("/duplicates")
async def duplicates(
    audits: Audited,
    measure: Nearness = Nearness.PIXEL,
    estimator: Annotated[str | None, Query(max_length=100, description="Of the measure `gradient`.")] = None,
    after: After = 0,
    limit: Limit = 60,
) -> DuplicatePage:
    """Near copies within the training set: every image with its nearest other one, the nearest pairs first."""
    page: DuplicatePage = await audits.call("duplicates", measure, estimator, after, limit)
    return page


@router.get("/concentration")
async def concentration(audits: Audited, estimator: Estimator = None) -> Concentration:
    """How unevenly positive influence is spread over the training images: Lorenz curve and Gini coefficient."""
    found: Concentration = await audits.call("concentration", estimator)
    return found


@router.get("/norms")
async def norms(audits: Audited) -> Norms:
    """Quartiles of the training gradients' norms, by checkpoint and timestep."""
    found: Norms = await audits.call("norms")
    return found


@router.get("/groups")
async def audited_groups(
    audits: Audited,
    group: Annotated[str | None, Query(max_length=200, description="One column; null: all.")] = None,
    estimator: Estimator = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Values of each column.")] = 100,
) -> tuple[GroupsAudit, ...]:
    """How influential the values of group columns are: artists, licences, sources ..."""
    found: tuple[GroupsAudit, ...] = await audits.call("groups", group, estimator, limit)
    return found
