"""The append-only log: who changed what and when, written in the transaction of the change itself."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from forebear_serve.database.opening import Database
from forebear_serve.database.tables import NAME, AuditRow

Subject = Literal["review", "token"]


@dataclass(frozen=True)
class LogEntry:
    """One line of the audit log."""

    id: int
    time: datetime
    """UTC."""
    actor: str
    """Name of the token that asked, or who ran the command."""
    action: str
    """create, change or revoke."""
    subject: str
    """review or token."""
    subject_id: int
    before: dict[str, Any] | None
    """What the subject was before; None when it was created."""
    after: dict[str, Any]
    request_id: str | None
    """Of the HTTP request that asked for it."""


def record(
    session: Session,
    actor: str,
    action: str,
    subject: Subject,
    subject_id: int,
    before: dict[str, Any] | None,
    after: dict[str, Any],
    request_id: str | None = None,
) -> None:
    """Add a line within the session's transaction."""
    session.add(
        AuditRow(
            time=datetime.now(UTC),
            actor=actor,
            action=action,
            subject=subject,
            subject_id=subject_id,
            before=before,
            after=after,
            request_id=request_id[:NAME] if request_id else None,
        )
    )


def log_of(database: Database, subject: Subject, subject_id: int) -> tuple[LogEntry, ...]:
    """All lines about a review or token, the oldest first."""
    chosen = select(AuditRow).where(AuditRow.subject == subject, AuditRow.subject_id == subject_id)
    with database.reading() as session:
        return tuple(
            LogEntry(
                row.id,
                row.time,
                row.actor,
                row.action,
                row.subject,
                row.subject_id,
                row.before,
                row.after,
                row.request_id,
            )
            for row in session.scalars(chosen.order_by(AuditRow.id))
        )
