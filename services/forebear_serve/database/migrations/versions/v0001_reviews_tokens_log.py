"""Tokens, reviews with their groups, and the audit log that nobody changes."""

import sqlalchemy as sa
from alembic import op

from forebear.errors import ForebearError

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)

REFUSED = "the audit log is append-only"
SQLITE_GUARDS = tuple(
    f"CREATE TRIGGER audit_log_{name} BEFORE {when} BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
    for name, when in {
        "update": "UPDATE ON audit_log",
        "delete": "DELETE ON audit_log",
        # INSERT OR REPLACE deletes the old row without asking the trigger above, unless triggers are recursive.
        "replace": "INSERT ON audit_log WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)",
    }.items()
)
POSTGRES_FUNCTION = f"""
CREATE FUNCTION forebear_append_only() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION '{REFUSED}'; END $$
"""
POSTGRES_TRIGGER = """
CREATE TRIGGER audit_log_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION forebear_append_only()
"""


def upgrade() -> None:
    _create_tokens()
    _create_reviews()
    _create_log()
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SQLITE_GUARDS if is_sqlite else (POSTGRES_FUNCTION, POSTGRES_TRIGGER):
        op.execute(statement)


def downgrade() -> None:
    """There is nothing before this revision."""
    raise ForebearError(
        "going back would delete every review and the audit log; restore a copy of the database instead"
    )


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.String(200), nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("expires", TIME),
        sa.Column("revoked", TIME),
        sa.Column("last_used", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("name", name="uq_tokens_name"),
        sa.UniqueConstraint("secret_hash", name="uq_tokens_secret_hash"),
        sqlite_autoincrement=True,
    )


def _create_reviews() -> None:
    op.create_table(
        "reviews",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("run", sa.String(200), nullable=False),
        sa.Column("sample_id", sa.String(200), nullable=False),
        sa.Column("picture_id", sa.String(200), nullable=False),
        sa.Column("verdict", sa.String(32)),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text),
        sa.Column("estimator", sa.String(200)),
        sa.Column("score", sa.Float),
        sa.Column("rank", sa.Integer),
        sa.Column("creator", sa.String(200), nullable=False),
        sa.Column("reviewer", sa.String(200)),
        sa.Column("created", TIME, nullable=False),
        sa.Column("changed", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_reviews_sample_id", "reviews", ["sample_id"])
    op.create_index("ix_reviews_verdict", "reviews", ["verdict"])
    op.create_index(
        "uq_reviews_open",
        "reviews",
        ["run", "sample_id", "picture_id"],
        unique=True,
        sqlite_where=sa.text("verdict IS NULL"),
        postgresql_where=sa.text("verdict IS NULL"),
    )
    op.create_table(
        "review_groups",
        sa.Column("review_id", NUMBER, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("value", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(["review_id"], ["reviews.id"], name="fk_review_groups_review_id"),
        sa.PrimaryKeyConstraint("review_id", "name", name="pk_review_groups"),
    )
    op.create_index("ix_review_groups_name", "review_groups", ["name", "value"])


def _create_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(32), nullable=False),
        sa.Column("subject_id", sa.BigInteger, nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON, nullable=False),
        sa.Column("request_id", sa.String(200)),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_log_subject", "audit_log", ["subject", "subject_id"])
