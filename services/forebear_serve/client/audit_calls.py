"""The calls about audits, as `calls` has the others."""

from typing import Any, TypeVar

from forebear_serve.audit_schemas import (
    Concentration,
    DuplicatePage,
    GroupsAudit,
    InfluentialPage,
    Norms,
    OutlierPage,
)
from forebear_serve.client.calls import Call, read_as

T = TypeVar("T")


def outliers(score: str, estimator: str | None, after: int, limit: int) -> Call[OutlierPage]:
    return _call("outliers", OutlierPage, score=score, estimator=estimator, after=after, limit=limit)


def influential(estimator: str | None, after: int, limit: int) -> Call[InfluentialPage]:
    return _call("influential", InfluentialPage, estimator=estimator, after=after, limit=limit)


def duplicates(measure: str, estimator: str | None, after: int, limit: int) -> Call[DuplicatePage]:
    return _call("duplicates", DuplicatePage, measure=measure, estimator=estimator, after=after, limit=limit)


def concentration(estimator: str | None) -> Call[Concentration]:
    return _call("concentration", Concentration, estimator=estimator)


def norms() -> Call[Norms]:
    return _call("norms", Norms)


def audited_groups(group: str | None, estimator: str | None, limit: int) -> Call[tuple[GroupsAudit, ...]]:
    return _call("groups", tuple[GroupsAudit, ...], group=group, estimator=estimator, limit=limit)


def _call(path: str, kind: type[T], **params: Any) -> Call[T]:
    given = {name: value for name, value in params.items() if value is not None}
    return Call("GET", f"/audits/{path}", read_as(kind), given)
