"""The training images and their groups."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from forebear_serve.gateway.access import READ
from forebear_serve.gateway.attributing import IMAGE, PNG
from forebear_serve.gateway.core import Gateway
from forebear_serve.gateway.errors import refused
from forebear_serve.schemas import GroupInfo, SampleId, SampleInfo, SamplePage

router = APIRouter(tags=["training images"])
Text = Annotated[str, Query(max_length=200)]


@router.get("/samples", responses=refused(401, 403, 422, 429), dependencies=[READ])
async def samples(
    core: Gateway,
    text: Text = "",
    group: Annotated[str | None, Query(max_length=200)] = None,
    value: Annotated[str | None, Query(max_length=500)] = None,
    after: Annotated[int, Query(ge=-1, le=2**62, description="`next` of the page before.")] = -1,
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
) -> SamplePage:
    """Training images whose id or caption contains `text`, and of one group where asked for."""
    page: SamplePage = await core.parts.catalogue.call("page", text, group, value, after, limit)
    return page


@router.get("/samples/{sample_id}", responses=refused(401, 403, 404, 422, 429), dependencies=[READ])
async def sample(sample_id: SampleId, core: Gateway) -> SampleInfo:
    """One training image."""
    info: SampleInfo = await core.parts.catalogue.call("sample", sample_id)
    return info


@router.get(
    "/samples/{sample_id}/image",
    response_class=Response,
    responses=refused(401, 403, 404, 422, 429) | IMAGE,
    dependencies=[READ],
)
async def sample_image(
    sample_id: SampleId, core: Gateway, size: Annotated[int, Query(ge=1, le=2048)] = 128
) -> Response:
    """Its picture as PNG, at most about `size` pixels along the longer side."""
    png: bytes = await core.parts.catalogue.call("sample_png", sample_id, size)
    return Response(png, media_type=PNG, headers={"Cache-Control": "private, max-age=300"})


@router.get("/groups", responses=refused(401, 403, 422, 429), dependencies=[READ])
async def groups(core: Gateway, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> tuple[GroupInfo, ...]:
    """The columns by which training images are grouped, each with its most frequent values."""
    found: tuple[GroupInfo, ...] = await core.parts.catalogue.call("groups", limit)
    return found
