"""Start aiosqlite connections, of the event store and of rows that may be lost."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar, cast

import aiosqlite

from ..handoff import Handoff
from .errors import is_busy, translated

T = TypeVar("T")

_BUSY: Final = timedelta(seconds=5).total_seconds()
_LOOK_AGAIN: Final = 0.005


def unobtrusive(connection: aiosqlite.Connection) -> aiosqlite.Connection:
    """Let a connection keep no process alive: Python waits for its thread at exit."""
    worker: Any = getattr(connection, "_thread", connection)
    worker.daemon = True
    return connection


class _Call(Generic[T]):
    """What aiosqlite's thread calls, and what it has for a future: it tells nobody.

    The outcome is handed over before aiosqlite sees anything: it keeps a page until it
    has read the next one, and lets that one wait until it has dropped it.
    """

    __slots__ = ("_answer", "_then", "_work")

    def __init__(
        self,
        work: Callable[[], T],
        answer: Handoff[T],
        then: Callable[[], object] | None,
    ) -> None:
        self._work = work
        self._answer = answer
        self._then = then

    def __call__(self) -> None:
        work, answer, then = self._work, self._answer, self._then
        del self._work, self._answer
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            answer.set_exception(error)
        else:
            del answer
            if then is not None:
                then()

    def get_loop(self) -> _Call[T]:
        return self

    def call_soon_threadsafe(self, *_: object) -> None:
        pass


def send(
    connection: aiosqlite.Connection,
    work: Callable[[], T],
    then: Callable[[], object] | None = None,
) -> Handoff[T]:
    """Have a connection's thread run a function, and *then*, for which nobody waits.

    aiosqlite's public calls are one statement each, and take two turns of the loop.
    """
    answer: Handoff[T] = Handoff()
    call = _Call(work, answer, then)
    cast("Any", connection)._tx.put_nowait((call, call))  # noqa: SLF001
    return answer


async def start(connection: aiosqlite.Connection) -> None:
    """Open a connection; if that fails, its thread has ended when this raises."""
    try:
        await connection
    except sqlite3.Error:
        # it ends by itself, but must not outlive the loop it reports to
        worker: Any = getattr(connection, "_thread", connection)
        await asyncio.to_thread(worker.join, 5)
        raise


def use_wal(db: sqlite3.Connection, seconds: float) -> None:
    """Turn a file to a write-ahead log; wait for others that write it, or turn it too.

    SQLite's own wait does not cover this: it gives up at once where another connection
    has the right to write a file that has no such log yet.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
            time.sleep(_LOOK_AGAIN)
        else:
            return


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
            await send(connection, lambda: use_wal(connection._conn, _BUSY))  # noqa: SLF001
        await connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error as error:
        await connection.close()
        raise reported(error, path) from error
    return connection


def reported(error: Exception, path: str) -> Exception:
    """Give the error to raise for one that came out of SQLite."""
    return translated(error, path, busy_timeout=_BUSY)
