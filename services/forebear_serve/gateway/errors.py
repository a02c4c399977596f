"""Every error as problem details: the body, the handlers, and what the OpenAPI says of them."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from forebear.errors import ForebearError
from forebear_serve.database import ConflictError, InvalidEntryError, NotFoundError
from forebear_serve.problems import MEDIA_TYPE, Problem, ProblemDetails, invalid, not_found, of_error

logger = logging.getLogger("forebear.serve")
WORDS = {
    401: "No token, or one that is unknown, revoked or expired.",
    403: "The token does not allow this.",
    404: "There is no such thing.",
    409: "Someone else changed it meanwhile.",
    413: "Larger than the server takes.",
    415: "Not of a type that the server takes.",
    422: "The request cannot be answered as it is; `detail` says what to change.",
    429: "Too many requests for now; Retry-After says when to ask again.",
    503: "A part of the server is not there for now; Retry-After says when to ask again.",
}


def refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for OpenAPI."""
    schema = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": WORDS[status], "content": schema} for status in statuses}


def problem_of(error: Problem | ForebearError, request_id: str) -> ProblemDetails:
    """What the caller is told."""
    return ProblemDetails.model_validate(_problem(error, request_id).body(request_id))


def _problem(error: Problem | ForebearError, request_id: str) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, NotFoundError):
        return not_found(str(error))
    if isinstance(error, ConflictError):
        return Problem(HTTPStatus.CONFLICT, "conflict", str(error))
    if isinstance(error, InvalidEntryError):
        return invalid(str(error))
    told = of_error(error)
    if told.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("request %s: %s", request_id, error)
    return told


def answer(error: Problem | ForebearError, request_id: str) -> JSONResponse:
    """The response."""
    problem = _problem(error, request_id)
    return JSONResponse(problem.body(request_id), problem.status, problem.headers, media_type=MEDIA_TYPE)


def add_handlers(api: FastAPI) -> None:
    """Turn everything that routes raise into problem details."""

    def known(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, Problem | ForebearError):
            raise error
        return answer(error, request.state.request_id)

    def validation(request: Request, error: Exception) -> JSONResponse:
        found = error.errors() if isinstance(error, RequestValidationError) else []
        fields = [{"at": ".".join(map(str, one["loc"])), "why": one["msg"]} for one in found]
        detail = "; ".join(f"{one['at']}: {one['why']}" for one in fields)
        return answer(invalid(detail, fields=fields), request.state.request_id)

    def http(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        told = Problem(error.status_code, kind, str(error.detail), dict(error.headers or {}))
        return answer(told, request.state.request_id)

    def unexpected(request: Request, error: Exception) -> JSONResponse:
        request_id = request.state.request_id
        logger.error("request %s failed in a way that nobody thought of", request_id, exc_info=error)
        told = Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal-error",
            "this is a mistake of the server's; its operator finds the reason in the log under this request's id",
        )
        return answer(told, request_id)

    api.add_exception_handler(Exception, unexpected)
    api.add_exception_handler(Problem, known)
    api.add_exception_handler(ForebearError, known)
    api.add_exception_handler(RequestValidationError, validation)
    api.add_exception_handler(HTTPException, http)
