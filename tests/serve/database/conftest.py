"""Databases to work on: a SQLite file, and Postgres where the machine has it."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from forebear_serve.database import Database, Reviews, Tokens

NUMBERS = count()


def _programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a database of a Postgres server on a socket of its own."""
    programs = _programs()
    if programs is None:
        pytest.skip("this machine has no Postgres server")
    # Postgres refuses to be root, and a socket's path has to be short.
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    if user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("Postgres does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="forebear-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, user)

    def call(*command: object, check: bool = True) -> None:
        subprocess.run([*map(str, command)], user=user, cwd=folder, check=check, stdout=subprocess.DEVNULL)

    data = folder / "data"
    server: list[object] | None = None
    try:
        call(programs / "initdb", "-D", data, "-U", "forebear", "-A", "trust", "-N")
        server = [programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        call(*server, "-o", f"-k {folder} -h '' -F", "start")
        yield f"postgresql://forebear@/postgres?host={folder}"
    finally:
        if server is not None:
            call(*server, "-m", "immediate", "stop", check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address where no database was opened yet; of Postgres, a schema of its own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/reviews.sqlite"
    import psycopg

    server, name = str(request.getfixturevalue("postgres")), f"test{next(NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{server}&options=-csearch_path%3D{name}"


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    found = Database.open(address)
    yield found
    found.close()


@pytest.fixture
def reviews(database: Database) -> Reviews:
    return Reviews(database)


@pytest.fixture
def tokens(database: Database) -> Tokens:
    return Tokens(database)
