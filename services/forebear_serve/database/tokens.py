"""Access tokens: created once, kept as hashes, checked at every request."""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from forebear_serve.database.auditing import record
from forebear_serve.database.checking import checked_text
from forebear_serve.database.errors import (
    ConflictError,
    DatabaseError,
    ExpiredTokenError,
    InvalidEntryError,
    NotFoundError,
    RevokedTokenError,
    ScopeError,
    UnknownTokenError,
)
from forebear_serve.database.opening import Database
from forebear_serve.database.tables import NAME, TokenRow
from forebear_serve.scopes import Scope

MARK = "fb_"
"""Begins every secret, so that scanners for leaked secrets can find them."""
SECRET_BYTES = 32
SHOWN = len(MARK) + 6
"""Characters of the secret that lists show: 36 of its 256 bits."""
USED_EVERY = timedelta(minutes=1)
"""`last_used` is exact to this: a request is not to cost a write."""


@dataclass(frozen=True)
class Token:
    """An access token as lists show it. Times are UTC."""

    id: int
    name: str
    """Unique for ever: reviews name who wrote them by it."""
    prefix: str
    """How the secret begins."""
    scopes: frozenset[Scope]
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    last_used: datetime | None

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


def require(token: Token, scope: Scope) -> None:
    """Raises ScopeError when the token does not allow `scope`."""
    if not token.allows(scope):
        raise ScopeError(f"this needs a token with the scope {scope}; this one has {_joined(token.scopes)}")


class Tokens:
    """The tokens of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        scopes: Collection[Scope | str],
        expires_in: timedelta | None = None,
        *,
        actor: str = "command line",
        request_id: str | None = None,
    ) -> tuple[Token, str]:
        """A new token and its secret, which nothing can show again.

        Raises InvalidEntryError for an unfit name, no scope, an unknown scope or a time that is over at once, and
        ConflictError when there is, or was, a token of this name.
        """
        now = datetime.now(UTC)
        secret = MARK + secrets.token_urlsafe(SECRET_BYTES)
        row = TokenRow(
            name=checked_text("name", name, NAME, lines=False),
            prefix=secret[:SHOWN],
            secret_hash=_hashed(secret),
            scopes=",".join(sorted(_scopes(scopes))),
            created=now,
            expires=None if expires_in is None else _end(now, expires_in),
        )
        with self._database.writing() as session:
            try:
                with session.begin_nested():
                    session.add(row)
            except IntegrityError:
                raise ConflictError(f"there is, or was, a token named {name!r}; choose another name") from None
            token = _token(row)
            record(session, actor, "create", "token", token.id, None, _logged(token), request_id)
        return token, secret

    def verify(self, secret: str | None) -> Token:
        """The token of a secret.

        Raises UnknownTokenError, RevokedTokenError or ExpiredTokenError; each is a TokenError, none holds the secret.
        """
        if not secret or not secret.startswith(MARK) or len(secret) > NAME:
            raise UnknownTokenError(
                "this needs an access token; whoever runs the server makes one: forebear token create"
            )
        wanted = _hashed(secret)
        with self._database.reading() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.secret_hash == wanted))
        # The search compares hashes, whose order tells nothing of the secret; the last word is said in constant time.
        if row is None or not hmac.compare_digest(row.secret_hash, wanted):
            raise UnknownTokenError("this access token is not known here; ask for one, or check that it is whole")
        token, now = _token(row), datetime.now(UTC)
        if token.revoked is not None:
            raise RevokedTokenError("this access token was revoked; ask for a new one")
        if token.expires is not None and token.expires <= now:
            raise ExpiredTokenError(
                f"this access token expired at {token.expires:%Y-%m-%d %H:%M} UTC; ask for a new one"
            )
        if token.last_used is None or now - token.last_used >= USED_EVERY:
            with suppress(DatabaseError):  # a full disk is no reason to turn a request away
                self._used(token.id, now)
        return token

    def list(self) -> tuple[Token, ...]:
        """All tokens, the oldest first."""
        with self._database.reading() as session:
            return tuple(map(_token, session.scalars(select(TokenRow).order_by(TokenRow.id))))

    def revoke(self, name: str, *, actor: str = "command line", request_id: str | None = None) -> Token:
        """Take a token back, for ever; one that was taken back already stays so. Raises NotFoundError."""
        checked_text("name", name, NAME, lines=False)
        with self._database.writing() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.name == name).with_for_update())
            if row is None:
                raise NotFoundError(f"there is no token named {name!r}; `forebear token list` shows them")
            if row.revoked is None:
                before = _logged(_token(row))
                row.revoked = datetime.now(UTC)
                record(session, actor, "revoke", "token", row.id, before, _logged(_token(row)), request_id)
            return _token(row)

    def _used(self, token_id: int, now: datetime) -> None:
        with self._database.writing() as session:
            row = session.get(TokenRow, token_id)
            if row is not None:
                row.last_used = now


def _hashed(secret: str) -> str:
    """SHA-256, 64 hexadecimal digits.

    A slow, salted hash protects passwords, which people choose and others can guess; 256 random bits cannot be guessed
    at any speed, and a slow hash would only make every request slow.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _scopes(names: Collection[Scope | str]) -> set[Scope]:
    known = ", ".join(Scope)
    if not names:
        raise InvalidEntryError(f"a token needs at least one scope of: {known}")
    try:
        return {Scope(name) for name in names}
    except ValueError as unknown:
        raise InvalidEntryError(f"{unknown}; the scopes are: {known}") from None


def _end(now: datetime, expires_in: timedelta) -> datetime:
    if expires_in <= timedelta(0):
        raise InvalidEntryError("a token that is over at once is of no use; give a time above zero, or none")
    try:
        return now + expires_in
    except OverflowError:
        raise InvalidEntryError("the calendar does not reach that far; give a shorter time, or none") from None


def _joined(scopes: Collection[Scope]) -> str:
    return ", ".join(sorted(scopes))


def _token(row: TokenRow) -> Token:
    scopes = frozenset(Scope(name) for name in row.scopes.split(","))
    return Token(row.id, row.name, row.prefix, scopes, row.created, row.expires, row.revoked, row.last_used)


def _logged(token: Token) -> dict[str, Any]:
    """What the audit log keeps of a token."""
    return {
        "name": token.name,
        "prefix": token.prefix,
        "scopes": sorted(token.scopes),
        "expires": token.expires.isoformat() if token.expires else None,
        "revoked": token.revoked.isoformat() if token.revoked else None,
    }
