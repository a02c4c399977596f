"""Reviews of training images: opened, judged, listed, exported."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from forebear_serve.database import (
    AttributionEvidence,
    Change,
    InvalidEntryError,
    LogEntry,
    NewReview,
    Review,
    ReviewFilter,
    Verdict,
)
from forebear_serve.database.checking import checked_text
from forebear_serve.database.tables import NAME
from forebear_serve.gateway.access import READ, Reviewer
from forebear_serve.gateway.core import Core, Gateway
from forebear_serve.gateway.errors import refused
from forebear_serve.problems import invalid
from forebear_serve.review_schemas import (
    MOST_ID,
    ExportFormat,
    ReviewEvent,
    ReviewInfo,
    ReviewOpened,
    ReviewPage,
    ReviewRequest,
    ReviewsChange,
    ReviewsRequest,
)

MEDIA = {
    ExportFormat.CSV: ("text/csv; charset=utf-8", "reviews.csv"),
    ExportFormat.PARQUET: ("application/vnd.apache.parquet", "reviews.parquet"),
    ExportFormat.DENY: ("text/plain; charset=utf-8", "deny.txt"),
}
"""Media type and file name of each export."""
FILE = {"schema": {"type": "string", "format": "binary"}}
FILES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {media.partition(";")[0]: FILE for media, _ in MEDIA.values()}}
}

router = APIRouter(tags=["reviews"])
Id = Annotated[int, Path(ge=1, le=MOST_ID)]
Name = Annotated[str | None, Query(max_length=NAME)]


def run_name(core: Core) -> str:
    """By which reviews of this run are known."""
    return core.settings.run.resolve().name


def filtered(
    core: Gateway,
    verdict: Annotated[Verdict | None, Query()] = None,
    state: Annotated[Literal["open", "decided"] | None, Query()] = None,
    sample_id: Name = None,
    picture_id: Name = None,
    reviewer: Annotated[str | None, Query(max_length=NAME, description="Who changed it last.")] = None,
    text: Annotated[str | None, Query(max_length=NAME, description="Occurs in the note.")] = None,
    group: Name = None,
    value: Annotated[str | None, Query(max_length=NAME, description="Of the group.")] = None,
) -> ReviewFilter:
    """What the query says of the reviews that are wanted: those of the run that is served, and all of it must hold."""
    if (group is None) != (value is None):
        raise invalid("give a group and its value together, or neither")
    return ReviewFilter(
        verdict=verdict,
        state=state,
        run=run_name(core),
        sample_id=sample_id,
        picture_id=picture_id,
        reviewer=reviewer,
        text=text,
        group=None if group is None or value is None else (group, value),
    )


Chosen = Annotated[ReviewFilter, Depends(filtered)]


@router.post("/reviews", responses=refused(401, 403, 404, 409, 413, 422, 429, 503))
async def create_reviews(
    asked: ReviewsRequest, core: Gateway, token: Reviewer, request: Request
) -> tuple[ReviewOpened, ...]:
    """Open reviews of training images; their groups are taken down with them.

    A sample and picture have one open review at most: where there is one, it is given back as it is.
    """
    groups = await core.parts.catalogue.call("groups_of", tuple(one.sample_id for one in asked.reviews))
    news = tuple(_new(one, run_name(core), fitting_groups(groups[one.sample_id])) for one in asked.reviews)
    made: tuple[tuple[Review, bool], ...] = await core.parts.reviews.call(
        "create", news, token.name, request.state.request_id
    )
    return tuple(ReviewOpened(review=ReviewInfo.model_validate(review), new=new) for review, new in made)


@router.get("/reviews", responses=refused(401, 403, 422, 429, 503), dependencies=[READ])
async def reviews(
    core: Gateway,
    chosen: Chosen,
    after: Annotated[str | None, Query(max_length=40, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
) -> ReviewPage:
    """Reviews of this run, the newest first; what comes in meanwhile moves nothing on later pages."""
    desk = core.parts.reviews
    page, total = await asyncio.gather(desk.call("page", chosen, after, limit), desk.call("count", chosen))
    return ReviewPage(reviews=tuple(map(ReviewInfo.model_validate, page.reviews)), total=total, next=page.next)


@router.patch("/reviews", responses=refused(401, 403, 404, 409, 413, 422, 429, 503))
async def change_reviews(
    asked: ReviewsChange, core: Gateway, token: Reviewer, request: Request
) -> tuple[ReviewInfo, ...]:
    """Judge reviews, change their notes, or open them again: all of them, or none when one is refused.

    A change names the version that was seen. When somebody was faster, the answer is 409: look again.
    """
    changes = tuple(Change(one.id, one.version, one.verdict, one.note, one.reopen) for one in asked.changes)
    changed: tuple[Review, ...] = await core.parts.reviews.call("change", changes, token.name, request.state.request_id)
    return tuple(map(ReviewInfo.model_validate, changed))


@router.get(
    "/reviews/export",
    response_class=Response,
    responses=refused(401, 403, 422, 429, 503) | FILES,
    dependencies=[READ],
)
async def export_reviews(
    core: Gateway,
    chosen: Chosen,
    kind: Annotated[ExportFormat, Query(alias="format")],
    licence_issues: Annotated[
        bool, Query(description="deny: name samples with the verdict licence-issue too.")
    ] = False,
) -> StreamingResponse:
    """One moment of this run's reviews as a file: a table of those that match, or the deny list of all of them."""
    if kind is ExportFormat.DENY and chosen != ReviewFilter(run=chosen.run):
        raise invalid("a deny list names every sample with the verdict remove; leave the filters out")
    if licence_issues and kind is not ExportFormat.DENY:
        raise invalid("licence_issues is for the format deny; choose verdict=licence-issue")
    pieces = core.parts.reviews.stream("export", kind.value, chosen, licence_issues)
    first = await anext(pieces, b"")  # what goes wrong goes wrong here, while there is a status to say so
    media, name = MEDIA[kind]
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(_whole(first, pieces), media_type=media, headers=headers)


async def _whole(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


@router.get("/reviews/{review_id}", responses=refused(401, 403, 404, 422, 429, 503), dependencies=[READ])
async def review(review_id: Id, core: Gateway) -> ReviewInfo:
    """One review."""
    found: Review = await core.parts.reviews.call("get", review_id)
    return ReviewInfo.model_validate(found)


@router.get("/reviews/{review_id}/history", responses=refused(401, 403, 404, 422, 429, 503), dependencies=[READ])
async def review_history(review_id: Id, core: Gateway) -> tuple[ReviewEvent, ...]:
    """Everything that happened to a review, the oldest first."""
    found: tuple[LogEntry, ...] = await core.parts.reviews.call("history", review_id)
    return tuple(map(ReviewEvent.model_validate, found))


def fitting_groups(groups: Mapping[str, str]) -> dict[str, str]:
    """Those that a review can hold: a value that is empty or too long for the database is left out."""
    found = {}
    for name, value in groups.items():
        try:
            found[checked_text("group", name, NAME, lines=False)] = checked_text(name, value, NAME, lines=False)
        except InvalidEntryError:
            continue
    return found


def _new(asked: ReviewRequest, run: str, groups: dict[str, str]) -> NewReview:
    found = asked.attribution
    evidence = None if found is None else AttributionEvidence(**found.model_dump())
    return NewReview(run, asked.sample_id, asked.picture_id, asked.note, groups, evidence)
