"""The whole API, put together."""

import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from forebear.version import __version__
from forebear_serve.gateway import attributing, auditing, generating, informing, jobs, listing, reviewing
from forebear_serve.gateway.core import Core
from forebear_serve.gateway.errors import add_handlers, answer
from forebear_serve.problems import ProblemDetails, unavailable

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
"""Of a caller's X-Request-ID that is taken over; others get one of ours."""
CLOSING, CLOSING_SECONDS = "the server is being stopped and finishes what it has begun; ask again later", 30
DESCRIPTION = """Pictures from diffusion models, and the training images that they descend from.

Every request but `/v1/health` carries `Authorization: Bearer TOKEN`. Errors are problem details (RFC 9457).
**A positive score means that training on the image lowered the model's loss on the picture.**"""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def make_api(core: Core) -> FastAPI:
    """The API over a core; OpenAPI at /v1/openapi.json, and no page that loads scripts from elsewhere."""
    api = FastAPI(
        title="Forebear",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    api.state.core, api.state.access = core, core.access
    v1 = APIRouter(prefix="/v1")
    for part in (generating, attributing, listing, auditing, reviewing, jobs, informing):
        v1.include_router(part.router)
    api.include_router(v1)
    add_handlers(api)
    _describe_problems(api)
    if core.settings.open_to:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(core.settings.open_to),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    api.add_middleware(Frame, core=core)
    return api


def _describe_problems(api: FastAPI) -> None:
    """Add the schema that `refused` refers to: no route returns it by itself."""
    made = api.openapi

    def openapi() -> dict[str, Any]:
        described = made()
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("ProblemDetails", ProblemDetails.model_json_schema())
        return described

    api.openapi = openapi  # type: ignore[method-assign]


class Frame:
    """Around every request: its id, its size, its log line, its numbers."""

    def __init__(self, app: Any, core: Core) -> None:
        self._app, self._core = app, core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 500

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        core = self._core
        core.active += 1
        core.measures.active.set(core.active)
        try:
            if core.closing:
                await answer(unavailable(CLOSING, CLOSING_SECONDS), request_id)(scope, receive, told)
            else:
                await self._app(scope, self._measured(receive, headers), told)
        finally:
            core.active -= 1
            core.measures.active.set(core.active)
            route = getattr(scope.get("route"), "path", "none")  # a pattern: ids in it would be numbers without end
            seconds = time.perf_counter() - started
            core.measures.request(request_id, scope["method"], route, status, seconds, scope["state"].get("token", ""))

    def _measured(self, receive: Receive, headers: dict[str, str]) -> Receive:
        """The body, as long as it is not larger than the limit."""
        most, got = self._core.settings.limits.body_bytes, 0
        announced = headers.get("content-length", "0")

        async def measured() -> MutableMapping[str, Any]:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most or (announced.isdecimal() and int(announced) > most):
                # Of this kind, since FastAPI turns any other error while it reads a body into a 400.
                raise HTTPException(413, f"the request is larger than the {most:,} bytes that this server takes")
            return message

        return measured
