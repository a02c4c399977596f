"""POST /v1/attribute, and the pictures that were made or uploaded."""

from typing import Any

from fastapi import APIRouter, Request, Response
from PIL import Image

from forebear_serve.engine.events import TraceQuery
from forebear_serve.engine.pictures import decoded_upload
from forebear_serve.gateway.access import GENERATE, READ
from forebear_serve.gateway.core import Core, Gateway
from forebear_serve.gateway.errors import refused
from forebear_serve.schemas import AttributeRequest, PictureId, PictureInfo, Traced

TRACED_SIZE = 512
"""Pixels asked of training images that are rendered, before the model's own size is taken."""
PNG = "image/png"
BINARY = {"type": "string", "format": "binary"}
IMAGE: dict[int | str, dict[str, Any]] = {200: {"content": {PNG: {"schema": BINARY}}, "description": "A PNG."}}

router = APIRouter(tags=["attribute"])


@router.post("/attribute", responses=refused(401, 403, 404, 413, 415, 422, 429, 503), dependencies=[GENERATE])
async def attribute(asked: AttributeRequest, core: Gateway) -> Traced:
    """Say which training images a picture descends from: one made here, uploaded, sent along, or trained on."""
    return await traced(core, asked)


async def traced(core: Core, asked: AttributeRequest) -> Traced:
    """The answer."""
    picture, prompt, label = await _picture(core, asked)
    query = TraceQuery(
        picture,
        prompt if asked.prompt is None else asked.prompt,
        label if asked.label is None else asked.label,
        asked.options,
    )
    found: Traced = await core.parts.tracer.call("trace", query)
    core.measures.stages(found.timings.stages)
    return found


async def _picture(core: Core, asked: AttributeRequest) -> tuple[Image.Image, str, int | None]:
    """The picture, with the prompt and label that it is known to have."""
    if asked.image is not None:
        limits = core.settings.limits
        return decoded_upload(asked.image, limits.upload_bytes, limits.pixels), "", None
    if asked.picture is not None:
        picture, info = await core.parts.catalogue.call("picture", asked.picture)
        return picture, info.prompt, info.label
    picture, sample = await core.parts.catalogue.call("sample_picture", asked.sample, TRACED_SIZE)
    return picture, sample.caption, sample.label


@router.post(
    "/pictures",
    status_code=201,
    responses=refused(401, 403, 413, 415, 422, 429),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}} for kind in (PNG, "image/jpeg", "image/webp")
            },
        }
    },
    dependencies=[GENERATE],
)
async def upload(request: Request, core: Gateway) -> PictureInfo:
    """Keep a picture, sent as the body, and give its id: `curl --data-binary @picture.png`."""
    info: PictureInfo = await core.parts.catalogue.call("upload", await request.body())
    return info


@router.get("/pictures/{picture_id}", responses=refused(401, 403, 404, 422, 429), dependencies=[READ])
async def picture(picture_id: PictureId, core: Gateway) -> PictureInfo:
    """How a picture came about: the request in it makes the same picture again."""
    info: PictureInfo = await core.parts.catalogue.call("picture_info", picture_id)
    return info


@router.get(
    "/pictures/{picture_id}/image",
    response_class=Response,
    responses=refused(401, 403, 404, 422, 429) | IMAGE,
    dependencies=[READ],
)
async def picture_image(picture_id: PictureId, core: Gateway) -> Response:
    """The picture as PNG."""
    png: bytes = await core.parts.catalogue.call("picture_png", picture_id)
    return Response(png, media_type=PNG, headers={"Cache-Control": "private, max-age=31536000, immutable"})
