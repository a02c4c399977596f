"""The tables as SQLAlchemy sees them; the migrations create them, and a test holds the two together."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Float, ForeignKey, Index, Integer, MetaData, String, Text, text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

NAME = 200
"""Longest name and id, in characters."""
NOTE = 4_000
"""Longest note, in characters."""

NumberedRow = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts only columns of the type INTEGER up by itself."""


class UtcTime(TypeDecorator[datetime]):
    """A moment: aware in Python, UTC in the database, also where the database knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """All tables; constraints have names, so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class TokenRow(Base):
    """An access token, without its secret."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(NumberedRow, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[str] = mapped_column(String(NAME))
    created: Mapped[datetime] = mapped_column(UtcTime)
    expires: Mapped[datetime | None] = mapped_column(UtcTime)
    revoked: Mapped[datetime | None] = mapped_column(UtcTime)
    last_used: Mapped[datetime | None] = mapped_column(UtcTime)

    __table_args__ = ({"sqlite_autoincrement": True},)


class ReviewRow(Base):
    """A review of a training sample; it is open until it has a verdict."""

    __tablename__ = "reviews"

    id: Mapped[int] = mapped_column(NumberedRow, primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    run: Mapped[str] = mapped_column(String(NAME))
    sample_id: Mapped[str] = mapped_column(String(NAME), index=True)
    picture_id: Mapped[str] = mapped_column(String(NAME))
    verdict: Mapped[str | None] = mapped_column(String(32), index=True)
    note: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str | None] = mapped_column(Text)
    estimator: Mapped[str | None] = mapped_column(String(NAME))
    score: Mapped[float | None] = mapped_column(Float)
    rank: Mapped[int | None] = mapped_column(Integer)
    creator: Mapped[str] = mapped_column(String(NAME))
    reviewer: Mapped[str | None] = mapped_column(String(NAME))
    created: Mapped[datetime] = mapped_column(UtcTime)
    changed: Mapped[datetime] = mapped_column(UtcTime)
    groups: Mapped[list["GroupRow"]] = relationship(lazy="selectin", order_by="GroupRow.name")

    __table_args__ = (
        # At most one open review for each sample and picture, also when two ask at once.
        Index(
            "uq_reviews_open",
            "run",
            "sample_id",
            "picture_id",
            unique=True,
            sqlite_where=text("verdict IS NULL"),
            postgresql_where=text("verdict IS NULL"),
        ),
        {"sqlite_autoincrement": True},
    )
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - read by SQLAlchemy when the class is made


class GroupRow(Base):
    """A group that the reviewed sample is in, such as artist: Ana."""

    __tablename__ = "review_groups"

    review_id: Mapped[int] = mapped_column(ForeignKey("reviews.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    value: Mapped[str] = mapped_column(String(NAME))

    __table_args__ = (Index("ix_review_groups_name", "name", "value"),)


class AuditRow(Base):
    """One change of a review or token; triggers refuse to change or delete it."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(NumberedRow, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    actor: Mapped[str] = mapped_column(String(NAME))
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[int] = mapped_column(BigInteger)
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any]] = mapped_column(JSON)
    request_id: Mapped[str | None] = mapped_column(String(NAME))

    __table_args__ = (Index("ix_audit_log_subject", "subject", "subject_id"), {"sqlite_autoincrement": True})
