"""What there is, and whether it works."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from fastapi import APIRouter, Response

from forebear.errors import ForebearError
from forebear.version import __version__
from forebear_serve.gateway.access import READ, Known
from forebear_serve.gateway.core import Gateway
from forebear_serve.gateway.errors import refused
from forebear_serve.problems import Problem
from forebear_serve.schemas import EstimatorInfo, GeneratorInfo, Health, IndexInfo, TokenInfo
from forebear_serve.scopes import Scope

CHECK_SECONDS = 5.0
"""For which a part may keep health waiting."""

router = APIRouter(tags=["about"])


@router.get("/health", responses={503: {"model": Health, "description": "A part does not answer."}})
async def health(response: Response, core: Gateway) -> Health:
    """Whether every part answers; needs no token, and says no more than names."""
    parts = core.parts.named()

    async def state(name: str) -> tuple[str, str]:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await parts[name].call("check")
        except (ForebearError, Problem, TimeoutError) as error:
            return name, "busy" if isinstance(error, TimeoutError) else "does not answer"
        return name, "ok"

    states = dict(await asyncio.gather(*map(state, parts)))
    down = "does not answer" in states.values()
    response.status_code = 503 if down else 200
    return Health(status="degraded" if down else "ok", parts=states, version=__version__)


@router.get("/token", responses=refused(401, 429))
async def token(known: Known) -> TokenInfo:
    """What the token of this request allows, and until when; any token that is good may ask."""
    return TokenInfo(name=known.name, scopes=tuple(filter(known.allows, Scope)), expires=known.expires)


@router.get("/generators", responses=refused(401, 403, 429, 503), dependencies=[READ])
async def generators(core: Gateway) -> tuple[GeneratorInfo, ...]:
    """The generators that pictures can be asked of; the first is the default."""
    return tuple(await asyncio.gather(*(part.call("info") for part in core.parts.makers.values())))


@router.get("/estimators", responses=refused(401, 403, 429, 503), dependencies=[READ])
async def estimators(core: Gateway) -> tuple[EstimatorInfo, ...]:
    """The estimators that this run can answer by."""
    found: tuple[EstimatorInfo, ...] = await core.parts.tracer.call("estimators")
    return found


@router.get("/index", responses=refused(401, 403, 429, 503), dependencies=[READ])
async def index(core: Gateway) -> IndexInfo:
    """What answers rest on: fingerprints, checkpoints, recall, and the sign of scores."""
    info: IndexInfo = await core.parts.tracer.call("info")
    return info


@router.get("/metrics", response_class=Response, responses=refused(401, 403, 429), dependencies=[READ])
async def metrics(core: Gateway) -> Response:
    """Numbers of the gateway replica that answers, in Prometheus's text format, the indexes' recall, and replicas."""
    core.measures.pending({name: part.pending for name, part in core.parts.named().items()})
    # A part that is away, Ray Serve's controller too, is no reason to tell nothing.
    replicas: Mapping[str, Mapping[str, int]] = {}
    with suppress(Problem, TimeoutError):
        async with asyncio.timeout(CHECK_SECONDS):
            replicas = await asyncio.to_thread(core.replicas)
    core.measures.replicas(replicas)
    with suppress(ForebearError, Problem, TimeoutError):
        async with asyncio.timeout(CHECK_SECONDS):
            info: IndexInfo = await core.parts.tracer.call("info")
        core.measures.recall(info.indexes)
    return Response(core.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
