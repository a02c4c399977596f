"""Who may ask what, and how often."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from forebear_serve.database import Database
from forebear_serve.database.errors import ScopeError, TokenError
from forebear_serve.database.tokens import Token, Tokens, require
from forebear_serve.problems import Problem, busy
from forebear_serve.scopes import Scope

REMEMBERED = 5.0
"""Seconds for which a token that was good is not looked up again: so long may a revoked one live on."""
MOST_REMEMBERED = 10_000

bearer = HTTPBearer(auto_error=False, description="A token of `forebear token create`.")


class RateLimit:
    """So many requests a minute for each key, spent and regained evenly; a burst may take all at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._rate, self._clock = float(per_minute), per_minute / 60.0, clock
        self._left: dict[object, tuple[float, float]] = {}

    def wait(self, key: object) -> float:
        """Take one: 0 when there was one, else the seconds until there is."""
        now = self._clock()
        left, then = self._left.pop(key, (self._most, now))
        left = min(self._most, left + (now - then) * self._rate)
        self._left[key] = (left - 1.0 if left >= 1.0 else left, now)
        while len(self._left) > MOST_REMEMBERED:
            del self._left[next(iter(self._left))]
        return 0.0 if left >= 1.0 else (1.0 - left) / self._rate


class Access:
    """Checks tokens against the database."""

    def __init__(self, database: Database, requests_per_minute: int, generations_per_minute: int) -> None:
        self._tokens = Tokens(database)
        self._requests, self._generations = RateLimit(requests_per_minute), RateLimit(generations_per_minute)
        self._known: dict[str, tuple[Token, float]] = {}

    async def check(self, secret: str | None, scope: Scope | None) -> Token:
        """The token of a request, which must allow `scope`, if one is named; raises Problem 401, 403 or 429."""
        try:
            token = await self._token(secret)
            if scope is not None:
                require(token, scope)
        except TokenError as refused:
            raise Problem(401, "unauthorised", str(refused), headers={"WWW-Authenticate": "Bearer"}) from None
        except ScopeError as refused:
            raise Problem(403, "forbidden", str(refused)) from None
        wait = self._requests.wait(token.id)
        if not wait and scope is Scope.GENERATE:
            wait = self._generations.wait(token.id)
        if wait:
            raise busy(
                "this token has used up its requests for now; Retry-After says when there are more", int(wait) + 1
            )
        return token

    async def _token(self, secret: str | None) -> Token:
        now = time.monotonic()
        token, until = self._known.get(secret or "", (None, 0.0))
        if token is None or now >= until:
            token = await asyncio.to_thread(self._tokens.verify, secret)
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[secret or ""] = token, now + REMEMBERED
        return token


def allowed(scope: Scope | None) -> Callable[..., Coroutine[Any, Any, Token]]:
    """A dependency: the token of the request, which must have this scope; None: whatever it allows."""

    async def check(
        request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
    ) -> Token:
        access: Access = request.app.state.access
        token = await access.check(None if given is None else given.credentials, scope)
        request.state.token = token.name
        return token

    return check


READ, GENERATE, REVIEW, ADMIN = (Depends(allowed(scope)) for scope in Scope)
"""For routes that need not know whose token it is."""
Known = Annotated[Token, Depends(allowed(None))]
Reviewer = Annotated[Token, REVIEW]
Admin = Annotated[Token, ADMIN]
