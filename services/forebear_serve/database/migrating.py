"""Brings a database's tables up to this version, one process at a time."""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from forebear_serve.database.errors import DatabaseError

SCRIPTS = Path(__file__).parent / "migrations"
VERSION_TABLE = "forebear_version"
"""Holds the revision; not alembic's own name, which another program in the same database may use."""
_LOCK_NUMBER = 0x666F7265
"""Of Postgres's advisory lock: any number that all versions of this program agree on."""
_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps the migration that runs in module globals."""


def migrate(connection: Connection, place: str) -> None:
    """Bring the tables up to date, within the connection's transaction.

    The connection must be one that writes. Raises DatabaseError when a newer version of Forebear made the tables.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
    with _ONE_AT_A_TIME:
        if revision_of(connection, place) != newest():
            command.upgrade(config(connection), "head")


def revision_of(connection: Connection, place: str) -> str | None:
    """The revision of a database's tables, None without any; raises DatabaseError for one that is not known here."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_revision()
    known = {script.revision for script in _scripts().walk_revisions()}
    if found is not None and found not in known:
        raise DatabaseError(f"{place} was written by a newer Forebear (revision {found}): update Forebear to open it")
    return found


def newest() -> str:
    """The revision that this version makes; raises DatabaseError when its scripts are not installed."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise DatabaseError("the scripts that make the tables are missing: install forebear[serve] again")
    return revision


def config(connection: Connection | None = None) -> Config:
    """Alembic's settings; no alembic.ini is needed."""
    settings = Config()
    settings.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(config())
