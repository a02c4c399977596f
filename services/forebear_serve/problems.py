"""Errors as RFC 9457 problem details: what a stranger may know, with the remedy, and never a path or a trace."""

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from forebear.errors import ConfigError, DataError, ForebearError, ModelError

MEDIA_TYPE = "application/problem+json"
PATH = re.compile(r"(?<![\w.:/])/(?:[^\s,;:'\"()/]+/)+([^\s,;:'\"()/]*)")
"""An absolute path of two parts or more; its last name is left when it is taken out of a message."""


class ProblemDetails(BaseModel):
    """The body of every error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", description="A name of the kind of problem, stable over versions.")
    title: str = Field(description="The kind of problem in words.", examples=["Not found"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field("", description="What is wrong with this request, and what to do.")
    instance: str = Field("", description="The request's id, as in the X-Request-ID header.")


@dataclass
class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """An error that the caller is told as it is."""

    status: int
    kind: str
    """The last part of `type`: `invalid-request`, `not-found` ..."""
    detail: str
    headers: dict[str, str] = field(default_factory=dict)
    extensions: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.detail

    def body(self, instance: str = "") -> dict[str, Any]:
        told = ProblemDetails(
            type=f"urn:forebear:problem:{self.kind}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            instance=instance,
        )
        return told.model_dump() | self.extensions


def invalid(detail: str, **extensions: Any) -> Problem:
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", detail, extensions=extensions)


def not_found(detail: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "not-found", detail)


def busy(detail: str, seconds: int) -> Problem:
    """Too many requests for now; `seconds` is when to ask again."""
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, "busy", detail, headers={"Retry-After": str(max(1, seconds))})


def unavailable(detail: str, seconds: int = 5) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail, headers={"Retry-After": str(seconds)})


def of_error(error: ForebearError) -> Problem:
    """What a caller is told of an error of the library.

    Messages about settings and data that came with the request are the caller's own; what they say of stores, indexes
    and models names files of this machine, which is the operator's to know: the log has it.
    """
    if isinstance(error, ConfigError | DataError) or (isinstance(error, ModelError) and "label" in str(error)):
        return invalid(PATH.sub(r"\1", str(error)))
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "not-ready",
        "the run that is served cannot answer this; its operator finds the reason in the log under this request's id",
    )
