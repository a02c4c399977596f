"""docs/reference/http.md: every path of the API with its fields, from the application's own OpenAPI description."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter
from fastapi.routing import APIRoute

from forebear_serve import gateway
from reference.docstrings import purpose
from reference.markdown import anchor, code, page, table
from reference.schema import Schema, field_rows, kind_text, value_text

HEAD = """# Reference: HTTP

Every path of `/v1`, made from the description that a server gives at `/v1/openapi.json`. [The guide](../http.md) says what they are
for, [services.md](../services.md#errors) what a status means, [tokens.md](../tokens.md) how a token gets its scope (`admin` implies all).
Every body is JSON unless it says otherwise; an unknown field of a request is refused. Every refusal is
[ProblemDetails](#problemdetails) as `application/problem+json`. Within `/v1`, fields are only added, with a default."""
METHODS = ("get", "post", "patch", "put", "delete")


@cache
def description() -> tuple[Mapping[str, Any], Mapping[tuple[str, str], str]]:
    """The OpenAPI description, and the scope that each (method, path) asks for: of the real routes, without a run."""
    from forebear_serve.gateway.access import Access
    from forebear_serve.gateway.api import make_api
    from forebear_serve.gateway.core import Core
    from forebear_serve.parts import Parts
    from forebear_serve.settings import ServeSettings

    # Neither is asked for anything: routes are described, not called.
    api = make_api(Core(ServeSettings(run=Path("RUN")), cast("Parts", None), cast("Access", None)))
    scopes = {
        (method.lower(), f"/v1{route.path}"): _scope(route.dependant)
        for route in _routes()
        for method in route.methods or ()
    }
    return api.openapi(), scopes


def _routes() -> Iterator[APIRoute]:
    """The routes of the gateway's modules."""
    for found in pkgutil.iter_modules(gateway.__path__, f"{gateway.__name__}."):
        router = getattr(importlib.import_module(found.name), "router", None)
        if isinstance(router, APIRouter):
            yield from (route for route in router.routes if isinstance(route, APIRoute))


def _scope(dependant: Any) -> str:
    """The scope that a route's dependency checks: `any` where every good token may ask, `none` where nobody is asked."""
    for one in dependant.dependencies:
        held = inspect.getclosurevars(one.call).nonlocals if one.call else {}
        if "scope" in held:
            return str(held["scope"].value) if held["scope"] is not None else "any"
    return "none"


def http_page() -> str:
    api, scopes = description()
    operations = [
        (method, path, one)
        for path, methods in api["paths"].items()
        for method, one in methods.items()
        if method in METHODS
    ]
    listed = [
        (f"[{method.upper()} `{path}`](#{anchor(f'{method.upper()} {path}')})", scopes[method, path], first(one))
        for method, path, one in operations
    ]
    schemas = api["components"]["schemas"]
    return page(
        HEAD,
        table(["method and path", "scope", "what"], listed),
        refusals(one for _, _, one in operations),
        *(operation(method, path, one, scopes[method, path]) for method, path, one in operations),
        "# Bodies\n\nFields of what is sent and answered, by name.",
        *(body(name, schemas[name]) for name in sorted(schemas)),
    )


def link(name: str) -> str:
    return f"[{name}](#{anchor(name)})"


def first(one: Mapping[str, Any]) -> str:
    return str(one.get("description", one.get("summary", ""))).split("\n\n")[0]


def operation(method: str, path: str, one: Mapping[str, Any], scope: str) -> str:
    """One method of one path."""
    text = "\n\n".join(" ".join(part.split()) for part in str(one.get("description", "")).split("\n\n"))
    parameters = [
        (
            code(given["name"]),
            given["in"],
            kind_text(given["schema"], link),
            "required" if given.get("required") else value_text(given["schema"].get("default")),
            given.get("description") or given["schema"].get("description", ""),
        )
        for given in one.get("parameters", ())
    ]
    sent = one.get("requestBody", {}).get("content", {})
    refused = [status for status, each in one["responses"].items() if is_refusal(each)]
    given = [
        (status, contents(each.get("content", {}))) for status, each in one["responses"].items() if not is_refusal(each)
    ]
    return page(
        f"## {method.upper()} {path}",
        text,
        f"Scope: `{scope}`.",
        table(["parameter", "in", "type", "default", "meaning"], parameters),
        f"Body: {contents(sent)}." if sent else "",
        table(["status", "answer"], given),
        f"[Refusals](#refusals): {', '.join(refused)}." if refused else "",
    )


def is_refusal(answer: Mapping[str, Any]) -> bool:
    return list(answer.get("content", ())) == ["application/problem+json"]


def refusals(operations: Iterable[Mapping[str, Any]]) -> str:
    """What each refusing status says, once for all paths; statuses say the same everywhere."""
    found = {
        status: answer["description"]
        for one in operations
        for status, answer in one["responses"].items()
        if is_refusal(answer)
    }
    return page(
        "## Refusals",
        "Each is [ProblemDetails](#problemdetails).",
        table(["status", "when"], sorted(found.items())),
    )


def contents(content: Mapping[str, Any]) -> str:
    """Media types, each with its schema."""
    return " or ".join(
        code(media) + (f", {kind_text(each['schema'], link)}" if each.get("schema") else "")
        for media, each in content.items()
    )


def body(name: str, schema: Schema) -> str:
    """One schema."""
    kind = python_class(name)
    text = schema.get("description", "")
    said = purpose(kind) if kind and not text else "\n\n".join(" ".join(p.split()) for p in text.split("\n\n"))
    if "enum" in schema:
        return page(f"## {name}", said, ", ".join(code(value) for value in schema["enum"]))
    return page(f"## {name}", said, table(["field", "type", "default", "meaning"], field_rows(schema, link, kind)))


def python_class(name: str) -> type | None:
    """The class of a schema, for what its docstrings say; None where two packages have one of that name."""
    found = {
        getattr(module, name)
        for place, module in list(sys.modules.items())
        if place.startswith("forebear") and isinstance(getattr(module, name, None), type)
    }
    return found.pop() if len(found) == 1 else None
