"""Engines: which databases there are, and how each is spoken to."""

import os
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from forebear_serve.database.errors import DatabaseError

WAIT_SECONDS = 30.0
"""How long a transaction waits for others before it is given up."""
POOL: dict[str, Any] = {
    "pool_size": 8,
    "max_overflow": 32,
    "pool_timeout": WAIT_SECONDS,
    "hide_parameters": True,  # notes and hashes are no business of a traceback
}
"""Enough connections for the threads of a web server."""
REVIEWS_FILE = "reviews.sqlite"
KINDS = "give sqlite:///FILE or postgresql://USER@HOST/NAME"


def run_url(run_folder: Path) -> str:
    """The address of a run's own database, a SQLite file in its folder."""
    return URL.create("sqlite", database=str(run_folder.resolve() / REVIEWS_FILE)).render_as_string()


def read_url(address: str) -> URL:
    """Raises DatabaseError, which never shows a password, for an address that is none or of another kind."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise DatabaseError(f"the database address cannot be read; {KINDS}") from None
    kind = url.drivername.split("+")[0]
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise DatabaseError(f"a database of the kind {kind} is not supported; {KINDS}")
    if not url.database or url.database == ":memory:" or url.query:
        raise DatabaseError(f"{shown(url)} names no file; {KINDS}")
    return url.set(drivername="sqlite+pysqlite")


def shown(url: URL) -> str:
    """The address as messages show it: a file's path, or the address without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


def make_engine(url: URL, *, create: bool) -> Engine:
    """An engine that many threads can share; a missing SQLite file is made, for its owner alone, if `create`."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, create=create)
    try:
        return create_engine(url, pool_pre_ping=True, **POOL)
    except ModuleNotFoundError:
        raise DatabaseError("Postgres needs a driver: pip install 'forebear[postgres]'") from None


def _sqlite_engine(url: URL, *, create: bool) -> Engine:
    path = Path(str(url.database))
    try:
        # SQLite gives the files that it puts beside this one the same mode.
        os.close(os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600))
    except FileNotFoundError:
        what = "its folder does not exist; check --run" if create else "`forebear token create` makes it"
        raise DatabaseError(f"{path} does not exist: {what}") from None
    except OSError as refused:
        raise DatabaseError(f"{path} cannot be opened ({refused.strerror}); check the path and its mode") from None
    engine = create_engine(url, connect_args={"timeout": WAIT_SECONDS}, **POOL)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    """Settings of each new connection to SQLite."""
    # The driver's own transactions would leave out statements that change tables.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)
    # FULL: what was committed survives a power cut, not the process's death alone. Recursive triggers: a row that
    # INSERT OR REPLACE puts in another's place counts as deleted.
    for setting in ("foreign_keys=ON", "synchronous=FULL", "recursive_triggers=ON"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _use_write_ahead_log(cursor: Any) -> None:
    """Readers and a writer do not wait for each other. SQLite does not itself wait its turn for this change."""
    import sqlite3

    last = time.monotonic() + WAIT_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as busy:
            if "locked" not in str(busy) or time.monotonic() > last:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    """A transaction that writes takes its turn at once: one that began to read could not wait for it later."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def explained(problem: SQLAlchemyError, url: URL) -> DatabaseError:
    """What the database said, with what to do about it."""
    said = " ".join(str(getattr(problem, "orig", None) or problem).split())[:300]
    remedies = {
        "locked": "another process holds it for long: try again",
        "full": "make room on the disk and try again; what was committed is safe",
        "readonly": "make the file and its folder writable for this user",
        "not a database": "move the file away, or restore it from a copy",
        "malformed": "restore it from a copy",
        "queuepool": "all connections are in use: try again",
    }
    remedy = next(
        (text for sign, text in remedies.items() if sign in said.lower()), "see whether it runs and try again"
    )
    return DatabaseError(f"{shown(url)}: {said}; {remedy}")
