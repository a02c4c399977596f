"""The database behind the services: access tokens, reviews and the log of who changed what."""

try:
    import alembic  # noqa: F401 - only to see whether it is there
    import sqlalchemy  # noqa: F401
except ModuleNotFoundError as missing:
    from forebear.errors import ConfigError

    raise ConfigError(f"{missing.name} is not installed: pip install 'forebear[serve]'") from None

from forebear_serve.database.auditing import LogEntry
from forebear_serve.database.errors import (
    ConflictError,
    DatabaseError,
    ExpiredTokenError,
    InvalidEntryError,
    NotFoundError,
    RevokedTokenError,
    ScopeError,
    TokenError,
    UnknownTokenError,
)
from forebear_serve.database.opening import Database
from forebear_serve.database.review import AttributionEvidence, Change, NewReview, Page, Review, ReviewFilter, Verdict
from forebear_serve.database.reviews import Reviews
from forebear_serve.database.tokens import Token, Tokens, require
from forebear_serve.scopes import Scope

__all__ = [
    "AttributionEvidence",
    "Change",
    "ConflictError",
    "Database",
    "DatabaseError",
    "ExpiredTokenError",
    "InvalidEntryError",
    "LogEntry",
    "NewReview",
    "NotFoundError",
    "Page",
    "Review",
    "ReviewFilter",
    "Reviews",
    "RevokedTokenError",
    "Scope",
    "ScopeError",
    "Token",
    "TokenError",
    "Tokens",
    "UnknownTokenError",
    "Verdict",
    "require",
]
