"""What goes wrong with the database, a token or a review; the gateway gives each class its HTTP status."""

from forebear.errors import ForebearError


class DatabaseError(ForebearError):
    """The database cannot be opened, read or written (503)."""


class TokenError(ForebearError):
    """A request brings no token that counts (401)."""


class UnknownTokenError(TokenError):
    """The token is missing, misshapen, or was never given out."""


class ExpiredTokenError(TokenError):
    """The token's time is over."""


class RevokedTokenError(TokenError):
    """The token was taken back."""


class ScopeError(ForebearError):
    """The token is good, but not for this (403)."""


class InvalidEntryError(ForebearError):
    """A value that the database does not take: too long, empty, or not one of those there are (422)."""


class NotFoundError(ForebearError):
    """There is no such review or token (404)."""


class ConflictError(ForebearError):
    """Someone else changed it meanwhile, or the name is taken (409)."""
