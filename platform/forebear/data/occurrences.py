"""Counts how often a key came, for more keys than memory should hold."""

import sqlite3


class Occurrences:
    """A counter by key in a database of SQLite's, which keeps in memory what is small and spills the rest."""

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        """In a table of `database`, whose transactions are its owner's; by default in a temporary one."""
        self._database = self._temporary() if database is None else database
        table = "seen (key TEXT PRIMARY KEY, times INTEGER) WITHOUT ROWID"
        self._database.execute(f"CREATE TABLE IF NOT EXISTS {table}")

    @staticmethod
    def _temporary() -> sqlite3.Connection:
        # Without a name the database is private, and gone with the connection.
        database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for command in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "BEGIN"):
            database.execute(command)
        return database

    def add(self, key: str) -> int:
        """Count one more occurrence; returns how many there are with it."""
        ((times,),) = self._database.execute(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times", (key,)
        ).fetchall()
        return int(times)

    def close(self) -> None:
        self._database.close()
