"""Open a database file for evsrc: recognise it, migrate it, or refuse it unchanged."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from ...core.errors import SchemaError
from ..schemas import known_version, numbered
from .sql import sql

APPLICATION_ID: Final = 0x65767372  # "evsr"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def migrations() -> dict[int, str]:
    """Give the numbered migrations, by version."""
    return numbered(_MIGRATIONS)


def recognise(db: sqlite3.Connection, path: str) -> int:
    """Tell the schema version of a database; 0: it is new and empty.

    Raises:
        SchemaError: it belongs to something else, or to a newer evsrc, or SQLite would
            change bytes that it puts together as text.
    """
    (encoding,) = db.execute("PRAGMA encoding").fetchone()
    if encoding != "UTF-8":
        raise SchemaError(f"database {path!r} is {encoding}; evsrc needs one in UTF-8")
    if db.execute(sql("whole_bytes")).fetchone() != (3,):
        raise SchemaError(
            f"SQLite {sqlite3.sqlite_version} cuts what it puts together at a zero "
            "byte; evsrc needs a newer one"
        )
    tables = {
        str(name)
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    if "evsrc_schema" not in tables:
        (owner,) = db.execute("PRAGMA application_id").fetchone()
        foreign = {table for table in tables if not table.startswith("evsrc_")}
        # our own id without tables: another process is just about to show them
        if foreign or owner not in (0, APPLICATION_ID):
            shown = ", ".join(sorted(foreign)[:5]) or f"application id {owner}"
            raise SchemaError(
                f"database {path!r} is not an evsrc database (it holds {shown}); give "
                "evsrc a file of its own, other tables may be added to it later"
            )
        return 0
    (version,) = db.execute("SELECT max(version) FROM evsrc_schema").fetchone()
    return known_version(version, max(migrations()), f"database {path!r}")


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Bring the database to the newest schema, in one transaction."""
    if recognise(db, path) == max(migrations()):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        have = recognise(db, path)  # again, under the lock: another process may have
        for version, script in migrations().items():
            if version > have:
                for statement in statements(script):
                    db.execute(statement)
                db.execute(
                    "INSERT INTO evsrc_schema (version, applied_at) VALUES (?, ?)",
                    (version, time.time_ns() // 1000),
                )
        db.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def statements(script: str) -> list[str]:
    """Split a script into its statements; a trigger's body stays in one piece."""
    found: list[str] = []
    current = ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return found
