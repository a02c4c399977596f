"""The calls about reviews, as `calls` has the others."""

from collections.abc import Sequence
from typing import Any

from forebear_serve.client.calls import Call, read_as
from forebear_serve.review_schemas import (
    ExportFormat,
    ReviewChange,
    ReviewEvent,
    ReviewInfo,
    ReviewOpened,
    ReviewPage,
    ReviewRequest,
    ReviewsChange,
    ReviewsRequest,
)


def create_reviews(asked: Sequence[ReviewRequest]) -> Call[tuple[ReviewOpened, ...]]:
    body = ReviewsRequest(reviews=tuple(asked)).model_dump(mode="json")
    return Call("POST", "/reviews", read_as(tuple[ReviewOpened, ...]), body=body)


def reviews(after: str | None, limit: int, chosen: dict[str, Any]) -> Call[ReviewPage]:
    return Call("GET", "/reviews", read_as(ReviewPage), _given({"after": after, "limit": limit, **chosen}))


def review(review_id: int) -> Call[ReviewInfo]:
    return Call("GET", f"/reviews/{review_id}", read_as(ReviewInfo))


def review_history(review_id: int) -> Call[tuple[ReviewEvent, ...]]:
    return Call("GET", f"/reviews/{review_id}/history", read_as(tuple[ReviewEvent, ...]))


def change_reviews(changes: Sequence[ReviewChange]) -> Call[tuple[ReviewInfo, ...]]:
    """Not repeatable: a change that arrived would be a conflict the second time."""
    body = ReviewsChange(changes=tuple(changes)).model_dump(mode="json")
    return Call("PATCH", "/reviews", read_as(tuple[ReviewInfo, ...]), body=body, repeatable=False)


def export_reviews(kind: str, licence_issues: bool, chosen: dict[str, Any]) -> Call[bytes]:
    params = {"format": ExportFormat(kind).value, **_given(chosen)}
    return Call("GET", "/reviews/export", bytes, params | ({"licence_issues": True} if licence_issues else {}))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
