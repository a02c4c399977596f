"""Reviews behind their own deployment: one process writes them, whatever happens to the gateway."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forebear_serve.database import (
    Change,
    ConflictError,
    Database,
    LogEntry,
    NewReview,
    Page,
    Review,
    ReviewFilter,
    Reviews,
)
from forebear_serve.database.exporting import deny_text, write_csv, write_parquet

PIECE = 2**18
"""Bytes of an export that are sent at once."""


class ReviewDesk:
    """The reviews of one database."""

    def __init__(self, url: str) -> None:
        self._reviews = Reviews(Database.open(url))

    def check(self) -> None:
        """Whether the database answers: raises when not."""
        self._reviews.count()

    def create(self, news: Sequence[NewReview], actor: str, request_id: str) -> tuple[tuple[Review, bool], ...]:
        return self._reviews.create_all(news, actor=actor, request_id=request_id)

    def get(self, review_id: int) -> Review:
        return self._reviews.get(review_id)

    def page(self, chosen: ReviewFilter, after: str | None, limit: int) -> Page:
        return self._reviews.list(chosen, after=after, limit=limit)

    def count(self, chosen: ReviewFilter) -> int:
        return self._reviews.count(chosen)

    def change(self, changes: Sequence[Change], actor: str, request_id: str) -> tuple[Review, ...]:
        """As `Reviews.change_all`; asked again for the same request, what it had made of it.

        A replica may die between its commit and its answer. The gateway then asks another one, for which the changes
        are no conflict but done: the log has them under this request's id.
        """
        try:
            return self._reviews.change_all(changes, actor=actor, request_id=request_id)
        except ConflictError:
            if not all(self._is_done(change, actor, request_id) for change in changes):
                raise
            return tuple(self._reviews.get(change.review_id) for change in changes)

    def _is_done(self, change: Change, actor: str, request_id: str) -> bool:
        """Whether the review is as this request left it."""
        review, last = self._reviews.get(change.review_id), self._reviews.history(change.review_id)[-1]
        if review.version == change.version:
            return True  # the change had nothing to change
        verdict = None if change.reopen else change.verdict or (last.before or {}).get("verdict")
        return (
            (last.actor, last.request_id) == (actor, request_id)
            and (last.before or {}).get("version") == change.version
            and review.verdict == verdict
            and change.note in (None, review.note)
        )

    def history(self, review_id: int) -> tuple[LogEntry, ...]:
        return self._reviews.history(review_id)

    def denied(self, run: str | None, licence_issues: Any) -> tuple[str, ...]:
        return self._reviews.denied(run=run, licence_issues=bool(licence_issues))

    def export(self, kind: str, chosen: ReviewFilter, licence_issues: bool, tell: Callable[[bytes], None]) -> None:
        """Tell the bytes of a file of one moment: `csv`, `parquet`, or `deny`, for which only the filter's run counts.

        The file is written before the first of them, so that slow readers hold no transaction open.
        """
        with tempfile.TemporaryDirectory(prefix="forebear-export-") as folder:
            file = Path(folder) / f"reviews.{kind}"
            if kind == "deny":
                file.write_text(deny_text(self.denied(chosen.run, licence_issues)), encoding="utf-8")
            else:
                (write_csv if kind == "csv" else write_parquet)(file, self._reviews.all(chosen))
            with file.open("rb") as whole:
                while piece := whole.read(PIECE):
                    tell(piece)
