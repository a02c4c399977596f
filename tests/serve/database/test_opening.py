"""Opening a database: by many at once, of every age, damaged, full, or not there."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, text

from forebear.errors import ForebearError
from forebear_serve.database import Database, DatabaseError, NewReview, Reviews, Tokens
from forebear_serve.database.migrating import VERSION_TABLE, config, newest
from forebear_serve.database.tables import Base

OPEN_AND_WRITE = """
import sys
from forebear_serve.database import Database, NewReview, Reviews
address, number = sys.argv[1:]
reviews = Reviews(Database.open(address))
for place in range(10):
    reviews.create(NewReview("run", f"{number}-{place}"), actor="test")
"""


def test_migrations_make_the_tables_that_the_models_describe(database: Database) -> None:
    with database.writing() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        assert context.get_current_revision() == newest()
        assert compare_metadata(context, Base.metadata) == []


def test_processes_that_open_at_once_share_one_migration_and_lose_no_review(address: str) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_WRITE, address, str(number)], stderr=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said
    database = Database.open(address, migrate=False)
    found = [review.sample_id for review in Reviews(database).all()]
    database.close()
    assert sorted(found) == sorted(f"{number}-{place}" for number in range(2) for place in range(10))


def test_a_database_of_a_newer_version_is_refused(address: str) -> None:
    database = Database.open(address)
    with database.writing() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database.close()
    for migrate in (True, False):
        with pytest.raises(DatabaseError, match=r"newer Forebear \(revision 9999\): update Forebear"):
            Database.open(address, migrate=migrate)


def test_without_migrating_a_database_without_tables_is_refused(address: str) -> None:
    with pytest.raises(DatabaseError, match="has no tables, or an older version"):
        Database.open(address, migrate=False)


def test_going_back_refuses_to_delete_reviews(database: Database) -> None:
    with (
        pytest.raises(ForebearError, match="would delete every review"),
        database.writing() as session,
    ):
        command.downgrade(config(session.connection()), "base")
    Reviews(database).create(NewReview("run", "sample"), actor="test")


def test_the_file_is_its_owners_alone_and_a_runs_own_by_default(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    Tokens(database).create("one", ["read"])
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["reviews.sqlite", "reviews.sqlite-shm", "reviews.sqlite-wal"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    database.close()


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///x.sqlite?mode=ro", "names no file"),
        ("mysql://u:secret@host/x", "kind mysql is not supported"),
        ("nonsense", "cannot be read"),
        ("postgresql://u:secret@127.0.0.1:1/x", r"u:\*\*\*@127.0.0.1:1/x: .*see whether it runs"),
    ],
)
def test_other_addresses_are_refused_without_their_passwords(address: str, remedy: str) -> None:
    with pytest.raises(DatabaseError, match=remedy) as refused:
        Database.open(address)
    assert "secret" not in str(refused.value)


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="its folder does not exist; check --run"):
        Database.open(tmp_path / "run")
    with pytest.raises(DatabaseError, match="`forebear token create` makes it"):
        Database.open(tmp_path, create=False)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "reviews.sqlite"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(DatabaseError, match="not a database; move the file away"):
        Database.open(tmp_path)
    assert path.read_bytes() == b"something else" * 100


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    reviews = Reviews(database)
    reviews.create(NewReview("run", "first"), actor="test")
    with database.reading() as session:
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
    database.close()
    event.listen(
        database._engine, "connect", lambda connection, _: connection.execute(f"PRAGMA max_page_count={pages}")
    )
    more = [NewReview("run", f"more {number}", note="x" * 4000) for number in range(100)]
    with pytest.raises(DatabaseError, match="full; make room"):
        reviews.create_all(more, actor="test")
    assert [review.sample_id for review in reviews.all()] == ["first"]
    database.close()
    again = Database.open(tmp_path)
    Reviews(again).create(NewReview("run", "room again", note="x" * 4000), actor="test")
    again.close()


def test_what_was_committed_survives_the_death_of_the_process(tmp_path: Path) -> None:
    """Killed in the middle of a transaction: what came before is there, its own part is not, and nobody has to wait."""
    code = """
import os, signal, sys
from pathlib import Path
from forebear_serve.database import Database, NewReview, Reviews
from forebear_serve.database.tables import ReviewRow
database = Database.open(Path(sys.argv[1]))
for number in range(5):
    Reviews(database).create(NewReview("run", str(number)), actor="test")
with database.writing() as session:
    session.get(ReviewRow, 1).note = "half done"
    session.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    database = Database.open(tmp_path)
    reviews = Reviews(database)
    assert [review.sample_id for review in reviews.all()] == ["4", "3", "2", "1", "0"]
    assert reviews.get(1).note == ""
    assert len(reviews.history(1)) == 1
    database.close()
    with sqlite3.connect(tmp_path / "reviews.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_library_needs_neither_ray_nor_a_web_framework() -> None:
    code = "import sys, forebear_serve.database; print({'ray', 'fastapi', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
