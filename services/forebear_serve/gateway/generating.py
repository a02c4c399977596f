"""POST /v1/generate: a picture, and its ancestors as soon as they are known."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from forebear.errors import ForebearError
from forebear_serve.engine.events import Finished, Sighted, TraceQuery
from forebear_serve.gateway.access import GENERATE
from forebear_serve.gateway.core import Core, Gateway
from forebear_serve.gateway.errors import problem_of, refused
from forebear_serve.problems import Problem, invalid, unavailable
from forebear_serve.schemas import Generated, GenerateRequest, Mode, Picture, Progressed, Timings, Traced

if TYPE_CHECKING:  # it comes from one engine and goes to another: nothing here looks into it
    from forebear.attribution import EmbeddedQuery

EVENT_STREAM = "text/event-stream"
router = APIRouter(tags=["generate"])

Told = Progressed | Picture | Traced | Timings
NAMES: dict[type[BaseModel], str] = {
    Progressed: "progress",
    Picture: "picture",
    Traced: "attribution",
    Timings: "done",
}
"""Of the events of the stream, beside `error`."""


@router.post(
    "/generate",
    response_model=Generated,
    responses=refused(401, 403, 413, 422, 429, 503)
    | {200: {"content": {EVENT_STREAM: {"schema": {"type": "string", "description": "Events, one for each part."}}}}},
    dependencies=[GENERATE],
)
async def generate(request: Request, asked: GenerateRequest, core: Gateway) -> Generated | StreamingResponse:
    """Make a picture; with `attribute`, say which training images it descends from.

    With `Accept: text/event-stream` the answer is a stream of events: `progress` for each step, some with a preview;
    `picture`; `attribution` as soon as it is known; `done` with the timings; or `error` with problem details.
    Otherwise everything comes as one JSON body.
    """
    if EVENT_STREAM in request.headers.get("accept", ""):
        told = making(core, asked)
        first = await anext(told)  # what is refused at once is refused with its own status
        events = _events(first, told, request.state.request_id)
        return StreamingResponse(events, media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})
    return await made(core, asked)


async def made(core: Core, asked: GenerateRequest) -> Generated:
    """The whole answer at once."""
    found: dict[type[BaseModel], Any] = {}
    async for one in making(core, asked):
        found[type(one)] = one
    return Generated(picture=found[Picture], traced=found.get(Traced), timings=found[Timings])


async def _events(first: Told, rest: AsyncIterator[Told], request_id: str) -> AsyncIterator[str]:
    try:
        yield _event(NAMES[type(first)], first.model_dump_json())
        async for one in rest:
            yield _event(NAMES[type(one)], one.model_dump_json())
    except (Problem, ForebearError) as error:
        yield _event("error", problem_of(error, request_id).model_dump_json())


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


async def making(core: Core, asked: GenerateRequest) -> AsyncIterator[Told]:
    """Everything that becomes known of the picture, in order."""
    if len(asked.prompt) > core.settings.limits.prompt_characters:
        longest = core.settings.limits.prompt_characters
        raise invalid(f"the prompt has {len(asked.prompt):,} characters; this server takes at most {longest:,}")
    started = time.perf_counter()
    try:
        async with asyncio.timeout(core.settings.limits.seconds):
            async for one in _made_and_traced(core, asked, started):
                yield one
    except TimeoutError:
        most = core.settings.limits.seconds
        raise unavailable(
            f"this took longer than the {most:g} s that this server gives a request; ask for less"
        ) from None


async def _made_and_traced(core: Core, asked: GenerateRequest, started: float) -> AsyncIterator[Told]:
    maker, tracer, options = core.maker(asked.generator), core.parts.tracer, asked.attribute
    early_step = None
    if options is not None:
        await tracer.call("asked", options)  # refused before a picture is made
        chosen = core.settings.attributor
        early_step = chosen.early_step if options.mode is Mode.FAST and chosen.early_checkpoints else None
    early: asyncio.Task[EmbeddedQuery | None] | None = None
    finished: Finished | None = None
    done = 0
    try:
        async for event in maker.stream("make", asked, early_step):
            if isinstance(event, Progressed):
                if event.done > done:  # a generator that took over from one that died begins at the first step
                    done = event.done
                    yield event
            elif isinstance(event, Sighted) and options is not None and early is None:
                seen = TraceQuery(event.pixels, asked.prompt, asked.label, options)
                early = asyncio.create_task(tracer.call("embed_early", seen))
            elif isinstance(event, Finished):
                finished = event
                yield event.picture
        if finished is None:
            raise unavailable("the generator ended without a picture; ask again")
        core.measures.picture(cached=finished.picture.cached)
        stages = {"generate": finished.seconds}
        if options is not None:
            known = await _or_none(early)
            traced: Traced = await tracer.call(
                "trace", TraceQuery(finished.pixels, asked.prompt, asked.label, options), known
            )
            stages |= traced.timings.stages | {"after_picture": time.perf_counter() - started - finished.seconds}
            yield traced
        core.measures.stages(stages)
        yield Timings(total=time.perf_counter() - started, stages=stages)
    finally:
        if early is not None:
            early.cancel()


async def _or_none(early: "asyncio.Task[EmbeddedQuery | None] | None") -> "EmbeddedQuery | None":
    """What was embedded early; where that failed, the final picture is embedded as a whole."""
    if early is None:
        return None
    try:
        return await early
    except (Problem, ForebearError):
        return None
