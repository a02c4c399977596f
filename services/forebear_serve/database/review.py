"""A review as a value: what is asked for, what comes back, what lists can be narrowed to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal


class Verdict(StrEnum):
    """What a reviewer says of a training sample."""

    KEEP = "keep"
    """It may stay."""
    REMOVE = "remove"
    """It is to go: deny lists name it."""
    LICENCE_ISSUE = "licence-issue"
    """Its licence does not allow the use; deny lists name it when asked to."""
    UNSURE = "unsure"
    """Someone looked and could not say."""


State = Literal["open", "decided"]


@dataclass(frozen=True)
class AttributionEvidence:
    """The answer in which the sample stood out."""

    fingerprint: str
    """What the answer was computed from, as the answer says it: JSON, or a hash of it."""
    estimator: str
    score: float
    """Positive: training on the sample lowered the loss of the picture."""
    rank: int
    """1 is the strongest."""


@dataclass(frozen=True)
class NewReview:
    """What a review is opened with."""

    run: str
    """Name of the run whose training sample it is."""
    sample_id: str
    picture_id: str = ""
    """The picture whose answer led here; empty without one."""
    note: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Groups of the sample, name to value, to find its reviews by."""
    attribution: AttributionEvidence | None = None


@dataclass(frozen=True)
class Review:
    """A review as it is now. Times are UTC."""

    id: int
    version: int
    """Counts the changes, from 1; a change has to name the version that it was made from."""
    run: str
    sample_id: str
    picture_id: str
    verdict: Verdict | None
    """None while it is open."""
    note: str
    groups: Mapping[str, str]
    attribution: AttributionEvidence | None
    creator: str
    """Name of the token that opened it."""
    reviewer: str | None
    """Name of the token that changed it last."""
    created: datetime
    changed: datetime

    @property
    def state(self) -> State:
        return "open" if self.verdict is None else "decided"


@dataclass(frozen=True)
class Change:
    """What is to become of a review; what is None stays as it is."""

    review_id: int
    version: int
    """The version that the caller saw."""
    verdict: Verdict | None = None
    note: str | None = None
    reopen: bool = False
    """Take the verdict back."""


@dataclass(frozen=True)
class ReviewFilter:
    """Keeps reviews that fulfil all that is not None."""

    verdict: Verdict | None = None
    state: State | None = None
    run: str | None = None
    sample_id: str | None = None
    picture_id: str | None = None
    reviewer: str | None = None
    text: str | None = None
    """Occurs in the note; the case of ASCII letters does not matter."""
    group: tuple[str, str] | None = None
    """Name and value of a group."""


@dataclass(frozen=True)
class Page:
    """Some reviews, the newest first."""

    reviews: tuple[Review, ...]
    next: str | None
    """Asks for the page that follows; None on the last one."""


def logged(review: Review) -> dict[str, Any]:
    """A review as the audit log keeps it, of JSON values."""
    values = asdict(review)
    return {**values, "created": review.created.isoformat(), "changed": review.changed.isoformat()}
