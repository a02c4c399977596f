"""One database of tokens and reviews: opened once, shared by the threads of a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from forebear_serve.database.connecting import explained, make_engine, read_url, run_url, shown
from forebear_serve.database.errors import DatabaseError
from forebear_serve.database.migrating import migrate, newest, revision_of


class Database:
    """A SQLite file or a Postgres database. Each process opens its own; threads may share one.

    `forebear_serve.database.Tokens` and `Reviews` work on it.
    """

    def __init__(self, engine: Engine, url: URL) -> None:
        self._engine, self._url = engine, url
        self._writer = engine.execution_options(writes=True)

    @classmethod
    def open(cls, address: str | Path, *, migrate: bool = True, create: bool = True) -> "Database":
        """Open `sqlite:///FILE` or `postgresql://USER@HOST/NAME`, or the own SQLite file of the run in a folder.

        With `migrate`, tables that an older version made are brought up to date; any number of processes may do so at
        once. With `create`, a SQLite file that is missing is made, readable by its owner alone. Raises DatabaseError,
        with the remedy, when it cannot be reached or written, or when a newer Forebear made its tables.
        """
        url = read_url(run_url(address) if isinstance(address, Path) else address)
        database = cls(make_engine(url, create=create), url)
        try:
            with database.reading() as session:
                is_current = revision_of(session.connection(), database.place) == newest()
            if not is_current:
                database._migrate(migrate)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def place(self) -> str:
        """The file, or the address without its password: for messages to whoever runs it, never for a stranger."""
        return shown(self._url)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that reads one state of the database, whatever others write meanwhile."""
        engine = self._engine
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._explained(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed as a whole, or not at all when the block raises."""
        with self._explained(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def _migrate(self, allowed: bool) -> None:
        if not allowed:
            raise DatabaseError(
                f"{self.place} has no tables, or an older version's: `forebear reviews list` updates them"
            )
        with self.writing() as session:
            migrate(session.connection(), self.place)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as problem:
            raise explained(problem, self._url) from problem
