"""What Ray Serve's HTTP proxy says where no gateway does, as problem details; named by `CALLBACK` in its environment.

Without it, a request whose gateway replica died is answered by a bare 500, and one that found none by a line of text.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from forebear_serve.problems import MEDIA_TYPE, Problem, busy, unavailable

if TYPE_CHECKING:
    from starlette.middleware import Middleware

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""The environment variable that Ray Serve's proxy reads."""
IMPORT_PATH = "forebear_serve.proxy.middlewares"
SOON = 2
"""Seconds after which to ask again: about what a gateway replica takes to be replaced."""
GONE = "the part of the server that had this request is being replaced; ask again"
TOLD: Mapping[int, Callable[[], Problem]] = {
    408: lambda: unavailable("this took longer than the server gives a request; ask for less", SOON),
    429: lambda: busy("the server has as much to do as it takes on; ask again", SOON),
    503: lambda: unavailable(GONE, SOON),
}
"""By the status that the proxy answers with by itself, as text; the gateway's own have a body of problem details."""

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def middlewares() -> "list[Middleware]":
    """For Ray Serve's proxy."""
    from starlette.middleware import Middleware

    return [Middleware(ProxyFrame)]


class ProxyFrame:
    """Around everything that the proxy answers, but for its own routes `/-/...`."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        answering = _Answering(send, scope)
        try:
            await self._app(scope, receive, answering.told)
        except Exception:
            if answering.started:
                raise  # the connection is cut, which is how a caller learns that the answer is not whole
        if not answering.started:
            await answering.problem(TOLD[503]())


class _Answering:
    """One answer on its way: passed on, or replaced."""

    def __init__(self, send: Send, scope: Scope) -> None:
        self._send, self._scope = send, scope
        self.started = self._replaced = False

    async def told(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = _once(message["headers"])
            kind = dict(headers).get(b"content-type", b"")
            if message["status"] in TOLD and not kind.startswith(MEDIA_TYPE.encode()):
                self._replaced = True
                await self.problem(TOLD[message["status"]]())
                return
            self.started = True
            message["headers"] = headers
        if not self._replaced:
            await self._send(message)

    async def problem(self, problem: Problem) -> None:
        self.started = True
        request_id = dict(self._scope["headers"]).get(b"x-request-id", b"")
        body = json.dumps(problem.body(request_id.decode("latin-1"))).encode()
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        headers += [(b"x-request-id", request_id)] if request_id else []
        await self._send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _once(headers: Any) -> list[tuple[bytes, bytes]]:
    """Headers with one X-Request-ID: the gateway's, which comes before the one that the proxy adds."""
    found, seen = [], False
    for name, value in headers:
        same = name.lower() == b"x-request-id"
        if not (same and seen):
            found.append((name, value))
        seen = seen or same
    return found
