"""Reviews of training samples: created once, judged, changed by one person at a time, never deleted."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from forebear_serve.database.auditing import LogEntry, log_of, record
from forebear_serve.database.checking import checked_text
from forebear_serve.database.errors import ConflictError, InvalidEntryError, NotFoundError
from forebear_serve.database.opening import Database
from forebear_serve.database.review import (
    AttributionEvidence,
    Change,
    NewReview,
    Page,
    Review,
    ReviewFilter,
    Verdict,
    logged,
)
from forebear_serve.database.tables import NAME, NOTE, GroupRow, ReviewRow

MOST_AT_ONCE = 1_000
"""Largest page, and most reviews that one call creates or changes."""
TRIES = 5
"""How often a creation looks again when others were faster."""
FINGERPRINT = 16_000
"""Longest attribution fingerprint, in characters."""


class Reviews:
    """The reviews of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewReview, *, actor: str, request_id: str | None = None) -> tuple[Review, bool]:
        """Open a review; True with it when it is new.

        While a review of the same run, sample and picture is open, that one comes back as it is, and False. Raises
        InvalidEntryError for values that the database does not take.
        """
        (made,) = self.create_all([new], actor=actor, request_id=request_id)
        return made

    def create_all(
        self, news: Sequence[NewReview], *, actor: str, request_id: str | None = None
    ) -> tuple[tuple[Review, bool], ...]:
        """`create` for several, all or none."""
        _check_count(news)
        for new in news:
            _check(new)
        with self._database.writing() as session:
            return _created(session, news, actor, request_id)

    def get(self, review_id: int) -> Review:
        """Raises NotFoundError."""
        _check_id(review_id)
        with self._database.reading() as session:
            row = session.get(ReviewRow, review_id)
            if row is None:
                raise NotFoundError(f"there is no review {review_id}")
            return _review(row)

    def list(self, chosen: ReviewFilter | None = None, *, after: str | None = None, limit: int = 50) -> Page:
        """A page of reviews, the newest first; `after` is the `next` of the page before.

        Reviews that come in while pages are turned appear on none of the later ones, and no review appears twice.
        Raises InvalidEntryError for a `limit` outside 1 to 1,000 or an `after` that no page gave.
        """
        if not 1 <= limit <= MOST_AT_ONCE:
            raise InvalidEntryError(f"limit is {limit}; give 1 to {MOST_AT_ONCE:,}")
        with self._database.reading() as session:
            rows = session.scalars(_newest_first(chosen, after).limit(limit + 1)).all()
        page = tuple(map(_review, rows[:limit]))
        return Page(page, str(page[-1].id) if len(rows) > limit else None)

    def count(self, chosen: ReviewFilter | None = None) -> int:
        """How many reviews the filter lets through."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(_selected(chosen).subquery())) or 0

    def all(self, chosen: ReviewFilter | None = None) -> Iterator[Review]:
        """Every review of one moment, the newest first, a thousand at a time in memory."""
        after = None
        with self._database.reading() as session:
            while rows := session.scalars(_newest_first(chosen, after).limit(MOST_AT_ONCE)).all():
                yield from map(_review, rows)
                after = str(rows[-1].id)
                session.expunge_all()

    def change(self, change: Change, *, actor: str, request_id: str | None = None) -> Review:
        """Judge a review, change its note, or open it again; one that changes nothing keeps its version.

        Raises NotFoundError, InvalidEntryError, and ConflictError when the version is not the one that is there:
        someone else was faster, and the caller has to look again.
        """
        (changed,) = self.change_all([change], actor=actor, request_id=request_id)
        return changed

    def change_all(self, changes: Sequence[Change], *, actor: str, request_id: str | None = None) -> tuple[Review, ...]:
        """`change` for several, in one transaction: all or none."""
        _check_count(changes)
        if len({change.review_id for change in changes}) < len(changes):
            raise InvalidEntryError("a review is named twice; give one change for each")
        for change in changes:
            if change.note is not None:
                checked_text("note", change.note, NOTE, empty=True)
            if change.reopen and change.verdict is not None:
                raise InvalidEntryError(f"review {change.review_id}: give a verdict or reopen it, not both")
        with self._database.writing() as session:
            return _changed(session, changes, actor, request_id)

    def history(self, review_id: int) -> tuple[LogEntry, ...]:
        """Everything that happened to a review, the oldest first. Raises NotFoundError."""
        _check_id(review_id)
        entries = log_of(self._database, "review", review_id)
        if not entries:
            raise NotFoundError(f"there is no review {review_id}")
        return entries

    def denied(self, *, run: str | None = None, licence_issues: bool = False) -> tuple[str, ...]:
        """Ids of the samples of which any review says remove (or, with `licence_issues`, licence-issue), ascending."""
        verdicts = [Verdict.REMOVE, *([Verdict.LICENCE_ISSUE] if licence_issues else [])]
        wanted = select(ReviewRow.sample_id).where(ReviewRow.verdict.in_(verdicts)).distinct()
        if run is not None:
            wanted = wanted.where(ReviewRow.run == run)
        with self._database.reading() as session:
            return tuple(sorted(session.scalars(wanted)))


def _check_count(entries: Sequence[object]) -> None:
    if not 1 <= len(entries) <= MOST_AT_ONCE:
        raise InvalidEntryError(f"{len(entries):,} reviews at once; give 1 to {MOST_AT_ONCE:,}")


def _check(new: NewReview) -> None:
    checked_text("run", new.run, NAME, lines=False)
    checked_text("sample_id", new.sample_id, NAME, lines=False)
    checked_text("picture_id", new.picture_id, NAME, empty=True, lines=False)
    checked_text("note", new.note, NOTE, empty=True)
    for name, value in new.groups.items():
        checked_text("group name", name, NAME, lines=False)
        checked_text(f"group {name}", value, NAME, lines=False)
    if (found := new.attribution) is not None:
        checked_text("fingerprint", found.fingerprint, FINGERPRINT)
        checked_text("estimator", found.estimator, NAME, lines=False)
        if not math.isfinite(found.score):
            raise InvalidEntryError(f"score is {found.score}; give a finite number")
        if not 1 <= found.rank < 2**31:
            raise InvalidEntryError(f"rank is {found.rank}; the first one is 1")


Key = tuple[str, str, str]
"""Run, sample and picture: what has one open review at most."""


def _key(review: NewReview | ReviewRow) -> Key:
    return review.run, review.sample_id, review.picture_id


def _created(
    session: Session, news: Sequence[NewReview], actor: str, request_id: str | None
) -> tuple[tuple[Review, bool], ...]:
    for _ in range(TRIES):
        known = _open(session, news)
        rows: dict[Key, ReviewRow] = {}
        for new in news:
            if _key(new) not in known and _key(new) not in rows:
                rows[_key(new)] = _row(new, actor)
        try:
            with session.begin_nested():
                session.add_all(rows.values())
            break
        except IntegrityError:
            continue  # Postgres: another transaction opened one of them since; look again
    else:
        raise ConflictError("others are opening the same reviews at this moment; try again")
    made = {key: _review(row) for key, row in rows.items()}
    for review in made.values():
        record(session, actor, "create", "review", review.id, None, logged(review), request_id)
    fresh, results = set(made), []
    for key in map(_key, news):
        results.append((known.get(key) or made[key], key in fresh))
        fresh.discard(key)
    return tuple(results)


def _open(session: Session, news: Sequence[NewReview]) -> dict[Key, Review]:
    """The open reviews of the same runs, samples and pictures."""
    wanted = select(ReviewRow).where(
        ReviewRow.sample_id.in_({new.sample_id for new in news}), ReviewRow.verdict.is_(None)
    )
    return {_key(row): _review(row) for row in session.scalars(wanted)}


def _row(new: NewReview, actor: str) -> ReviewRow:
    now, found = datetime.now(UTC), new.attribution
    return ReviewRow(
        run=new.run,
        sample_id=new.sample_id,
        picture_id=new.picture_id,
        note=new.note,
        fingerprint=found.fingerprint if found else None,
        estimator=found.estimator if found else None,
        score=found.score if found else None,
        rank=found.rank if found else None,
        creator=actor,
        created=now,
        changed=now,
        groups=[GroupRow(name=name, value=new.groups[name]) for name in sorted(new.groups)],
    )


def _changed(session: Session, changes: Sequence[Change], actor: str, request_id: str | None) -> tuple[Review, ...]:
    rows = _locked(session, [change.review_id for change in changes])
    before = {number: _review(row) for number, row in rows.items()}
    for change in changes:
        _apply(rows[change.review_id], change, actor)
    touched = [row.id for row in rows.values() if session.is_modified(row)]
    try:
        session.flush()
    except IntegrityError:
        opened = ", ".join(str(change.review_id) for change in changes if change.reopen)
        raise ConflictError(f"review {opened} cannot be opened again: another one of its sample is open") from None
    after = {number: _review(row) for number, row in rows.items()}
    for number in touched:
        record(session, actor, "change", "review", number, logged(before[number]), logged(after[number]), request_id)
    return tuple(after[change.review_id] for change in changes)


def _locked(session: Session, ids: Sequence[int]) -> dict[int, ReviewRow]:
    """Rows by id, locked in one order, so that two bulk changes never wait for each other."""
    for number in ids:
        _check_id(number)
    wanted = select(ReviewRow).where(ReviewRow.id.in_(ids)).order_by(ReviewRow.id).with_for_update()
    rows = {row.id: row for row in session.scalars(wanted)}
    if missing := sorted(set(ids) - set(rows)):
        raise NotFoundError(f"there is no review {missing[0]}")
    return rows


def _apply(row: ReviewRow, change: Change, actor: str) -> None:
    """Put a change into a row; one that changes nothing leaves it untouched."""
    if row.version != change.version:
        raise ConflictError(
            f"review {row.id} was changed by {row.reviewer or row.creator} meanwhile (version {row.version}, not "
            f"{change.version}); read it again"
        )
    verdict = None if change.reopen else change.verdict or row.verdict
    note = row.note if change.note is None else change.note
    if (verdict, note) != (row.verdict, row.note):
        row.verdict, row.note = verdict, note
        row.reviewer, row.changed = actor, datetime.now(UTC)


def _check_id(review_id: int) -> None:
    if not 0 < review_id < 2**63:
        raise NotFoundError(f"there is no review {review_id}")


def _newest_first(chosen: ReviewFilter | None, after: str | None) -> Select[ReviewRow]:
    wanted = _selected(chosen).order_by(ReviewRow.id.desc())
    if after is None:
        return wanted
    if not (after.isascii() and after.isdigit() and len(after) < 19):
        raise InvalidEntryError("after is not the `next` of a page; leave it out to begin with the newest review")
    return wanted.where(ReviewRow.id < int(after))


def _selected(chosen: ReviewFilter | None) -> Select[ReviewRow]:
    return select(ReviewRow).where(*_conditions(chosen or ReviewFilter()))


def _conditions(chosen: ReviewFilter) -> Iterator[ColumnElement[bool]]:
    if chosen.verdict is not None:
        yield ReviewRow.verdict == chosen.verdict
    if chosen.state is not None:
        yield ReviewRow.verdict.is_(None) if chosen.state == "open" else ReviewRow.verdict.is_not(None)
    for column, value in (
        (ReviewRow.run, chosen.run),
        (ReviewRow.sample_id, chosen.sample_id),
        (ReviewRow.picture_id, chosen.picture_id),
        (ReviewRow.reviewer, chosen.reviewer),
    ):
        if value is not None:
            yield column == checked_text(column.key, value, NAME, empty=True, lines=False)
    if chosen.text:
        checked_text("text", chosen.text, NAME)
        yield ReviewRow.note.icontains(chosen.text, autoescape=True)
    if chosen.group is not None:
        name, value = (checked_text("group", part, NAME, lines=False) for part in chosen.group)
        yield ReviewRow.groups.any((GroupRow.name == name) & (GroupRow.value == value))


def _review(row: ReviewRow) -> Review:
    evidence = None
    if row.fingerprint is not None and row.estimator is not None and row.score is not None and row.rank is not None:
        evidence = AttributionEvidence(row.fingerprint, row.estimator, row.score, row.rank)
    return Review(
        id=row.id,
        version=row.version,
        run=row.run,
        sample_id=row.sample_id,
        picture_id=row.picture_id,
        verdict=None if row.verdict is None else Verdict(row.verdict),
        note=row.note,
        groups={group.name: group.value for group in row.groups},
        attribution=evidence,
        creator=row.creator,
        reviewer=row.reviewer,
        created=row.created,
        changed=row.changed,
    )
