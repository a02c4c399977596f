"""The review report: one HTML file that needs nothing else, for people without the dashboard."""

from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import jinja2

from forebear.images import data_uri
from forebear_dashboard.review_list import verdict_name
from forebear_serve.client import Client, RefusedError
from forebear_serve.review_schemas import ReviewInfo

MOST = 500
"""Reviews with pictures in one file; it says so when there are more."""
SIDE = 128


def review_report(client: Client, chosen: dict[str, Any]) -> str:
    """HTML of the reviews that `chosen` lets through, the newest first; raises what the client raises."""
    index = client.index()
    reviews = list(islice(client.all_reviews(**chosen), MOST + 1))
    kept = reviews[:MOST]
    described = {one.name: one.description for one in client.estimators()}
    used = sorted({one.attribution.estimator for one in kept if one.attribution is not None})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("forebear_dashboard", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("review.html.j2").render(
        index=index,
        chosen=chosen,
        counts=Counter(verdict_name(one.verdict) for one in kept),
        estimators={name: described.get(name, "") for name in used},
        entries=[_entry(client, one) for one in kept],
        more=len(reviews) > MOST,
        most=MOST,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _entry(client: Client, review: ReviewInfo) -> dict[str, Any]:
    """A review with its pictures, as the template reads it."""
    return {
        "review": review,
        "verdict": verdict_name(review.verdict),
        "sample": _address(client.sample_image, review.sample_id, SIDE),
        "picture": _address(client.picture_image, review.picture_id) if review.picture_id else None,
        "changed": review.changed.strftime("%Y-%m-%d %H:%M UTC"),
    }


def _address(fetch: Any, *asked: Any) -> str | None:
    """A picture as a `data:` address; None when it is not there any more."""
    try:
        return data_uri(fetch(*asked))
    except RefusedError as refused:
        if refused.status == 404:
            return None
        raise
