"""Start aiosqlite connections, of the event store and of rows that may be lost."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from typing import Any, Final

import aiosqlite

from .errors import translated

_BUSY: Final = timedelta(seconds=5).total_seconds()


def unobtrusive(connection: aiosqlite.Connection) -> aiosqlite.Connection:
    """Let a connection keep no process alive: Python waits for its thread at exit."""
    worker: Any = getattr(connection, "_thread", connection)
    worker.daemon = True
    return connection


async def start(connection: aiosqlite.Connection) -> None:
    """Open a connection; if that fails, its thread has ended when this raises."""
    try:
        await connection
    except sqlite3.Error:
        # it ends by itself, but must not outlive the loop it reports to
        worker: Any = getattr(connection, "_thread", connection)
        await asyncio.to_thread(worker.join, 5)
        raise


async def connect(path: str) -> aiosqlite.Connection:
    """Open a file, or ":memory:", and commit every statement by itself.

    Raises:
        StoreUnavailableError: it cannot be opened, such as a missing directory.
        SchemaError: it is no database.
    """
    connection = unobtrusive(
        aiosqlite.connect(path, isolation_level=None, timeout=_BUSY)
    )
    try:
        await start(connection)
    except sqlite3.Error as error:
        raise reported(error, path) from error
    try:
        if path != ":memory:":
            await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error as error:
        await connection.close()
        raise reported(error, path) from error
    return connection


def reported(error: Exception, path: str) -> Exception:
    """Give the error to raise for one that came out of SQLite."""
    return translated(error, path, busy_timeout=_BUSY)
