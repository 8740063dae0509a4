"""Run SQL statements for the repositories of checkpoints, dead letters and snapshots.

A repository is written once, in SQL that SQLite and PostgreSQL share, with `:name` for
values; what runs a statement is a function. In memory it is SQLite as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast
from weakref import finalize

from ..core.errors import StoreUnavailableError

if TYPE_CHECKING:
    import aiosqlite

SQLiteConnection: TypeAlias = "aiosqlite.Connection"


_BUSY: Final = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED


class Rows(NamedTuple):
    """What a statement gave, and how many rows it changed."""

    rows: Sequence[Any]
    changed: int


Execute: TypeAlias = Callable[[str, Mapping[str, object]], Awaitable[Rows]]
"""Runs one statement with its values, whole or not at all."""


@contextmanager
def outages() -> Generator[None]:
    """Tell by the core's error, which waits, that a repository's database is away.

    Whatever else it raises is no outage.
    """
    try:
        yield
    except Exception as error:
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY
        gone = bool(getattr(error, "connection_invalidated", False))
        if not (busy or gone or isinstance(error, OSError)):
            raise
        raise StoreUnavailableError(
            f"the database of a repository is away: {type(error).__name__}"
        ) from error


class Memory:
    """Runs statements on a table in memory, which *create* makes."""

    def __init__(self, create: str) -> None:
        from sqlite3 import connect  # noqa: PLC0415 - only if it is used

        self._db = connect(":memory:", isolation_level=None, check_same_thread=False)
        finalize(self, self._db.close)
        self._db.execute(create)

    def run(self, statement: str, values: Mapping[str, object]) -> Rows:
        """Run one statement at once."""
        cursor = self._db.execute(statement, values)
        return Rows(cursor.fetchall(), cursor.rowcount)

    async def __call__(self, statement: str, values: Mapping[str, object]) -> Rows:
        """Do the same as `run`."""
        return self.run(statement, values)


def on_connection(connection: SQLiteConnection, create: str) -> Execute:
    """Run statements on a connection of the caller.

    Inside a transaction of the caller they become part of it; otherwise each is
    committed at once. Each is one hop to the connection's thread, so that no other
    coroutine's statement comes between it and its commit.

    Args:
        connection: the caller's; it stays the caller's to close.
        create: makes the table, if it is not there.
    """

    async def execute(statement: str, values: Mapping[str, object]) -> Rows:
        def work() -> Rows:
            db = connection._conn  # noqa: SLF001
            joined = db.in_transaction
            cursor = db.cursor()
            cursor.row_factory = None
            try:
                cursor.execute(create)  # each time: a rollback may have taken it back
                rows = cursor.execute(statement, values).fetchall()
                if not joined and db.in_transaction:
                    db.commit()
            except BaseException:
                if not joined and db.in_transaction:
                    db.rollback()
                raise
            return Rows(rows, cursor.rowcount)

        # aiosqlite's public calls are one statement each; this runs a function
        run = cast("Any", connection)._execute  # noqa: SLF001
        return cast("Rows", await run(work))

    return execute
