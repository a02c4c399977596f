"""The bodies of /v1/reviews."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from forebear_serve.database import Verdict
from forebear_serve.database.reviews import FINGERPRINT, MOST_AT_ONCE
from forebear_serve.database.tables import NAME, NOTE
from forebear_serve.schemas import Body, PictureId

MOST_ID, MOST_INT = 2**63 - 1, 2**31 - 1
"""What every database can hold in an id, and in a count."""
ReviewId = Annotated[int, Field(ge=1, le=MOST_ID, description="Of a review.")]
Note = Annotated[str, Field(max_length=NOTE, description="In the reviewer's own words.")]


class ExportFormat(StrEnum):
    """What an export is for."""

    CSV = "csv"
    """Spreadsheets."""
    PARQUET = "parquet"
    """Programs: every value with its type."""
    DENY = "deny"
    """`forebear train`, `embed` and `index`: the ids of samples to leave out, one a line."""


class Evidence(Body):
    """The answer in which the sample stood out."""

    model_config = ConfigDict(from_attributes=True)

    fingerprint: str = Field(max_length=FINGERPRINT, description="The answer's own, as JSON, or a hash of it.")
    estimator: str = Field(max_length=NAME)
    score: FiniteFloat = Field(description="Positive: training on the sample lowered the picture's loss.")
    rank: int = Field(ge=1, le=MOST_INT, description="1 is the strongest.")


class ReviewRequest(Body):
    """A training image that somebody is to judge."""

    sample_id: str = Field(min_length=1, max_length=NAME)
    picture_id: PictureId | Literal[""] = Field("", description="The picture whose answer led here; empty: none.")
    note: Note = ""
    attribution: Evidence | None = None


class ReviewsRequest(Body):
    """Reviews to be opened: all of them, or none when one is refused."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reviews": [{"sample_id": "openmoji/1F600", "note": "whose drawing?"}]}]}
    )

    reviews: tuple[ReviewRequest, ...] = Field(min_length=1, max_length=MOST_AT_ONCE)


class ReviewInfo(BaseModel):
    """A review as it is now."""

    model_config = ConfigDict(from_attributes=True)

    id: ReviewId
    version: int = Field(description="Counts the changes, from 1; a change names the one that it was made from.")
    run: str
    sample_id: str
    picture_id: str
    state: Literal["open", "decided"]
    verdict: Verdict | None = Field(description="null while it is open.")
    note: str
    groups: dict[str, str] = Field(description="Of the sample.")
    attribution: Evidence | None
    creator: str = Field(description="Name of the token that opened it.")
    reviewer: str | None = Field(description="Name of the token that changed it last.")
    created: datetime
    changed: datetime


class ReviewOpened(BaseModel):
    """What came of a request for a review."""

    review: ReviewInfo
    new: bool = Field(description="False: a review of this sample and picture was open already, and is given back.")


class ReviewPage(BaseModel):
    """A page of reviews, the newest first."""

    reviews: tuple[ReviewInfo, ...]
    total: int = Field(description="That match, on all pages.")
    next: str | None = Field(None, description="`after` of the next page; null: this is the last.")


class ReviewEvent(BaseModel):
    """One thing that happened to a review."""

    model_config = ConfigDict(from_attributes=True)

    time: datetime
    actor: str = Field(description="Name of the token, or who ran the command.")
    action: str = Field(description="create or change.")
    before: dict[str, Any] | None = Field(description="The review before; null when it was created.")
    after: dict[str, Any]
    request_id: str | None


class ReviewChange(Body):
    """What is to become of a review; what is null stays as it is."""

    id: ReviewId
    version: int = Field(ge=1, le=MOST_INT, description="The one that was seen: another one is a conflict (409).")
    verdict: Verdict | None = None
    note: Note | None = None
    reopen: bool = Field(False, description="Take the verdict back.")


class ReviewsChange(Body):
    """Changes, made as a whole or not at all."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"changes": [{"id": 1, "version": 1, "verdict": "licence-issue"}]}]}
    )

    changes: tuple[ReviewChange, ...] = Field(min_length=1, max_length=MOST_AT_ONCE)
