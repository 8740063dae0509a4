"""Run the user's own SQL in a transaction of the store, on its connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ...core.errors import TransactionError
from .errors import is_fatal
from .records import Run

T = TypeVar("T")

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]


class _Refused(NamedTuple):
    """An error of the user's work, which is not to be translated."""

    error: Exception


class SQLiteConnection:
    """The store's writing connection, inside a transaction.

    Each call is one trip to the connection's thread; `run` makes many statements one
    trip. Errors of the statements are sqlite3's own, except for those of the file
    itself (busy, full, damaged ...), which are the store's. The transaction's end is
    the block's: COMMIT and ROLLBACK, and `executescript`, which commits, are errors.
    """

    def __init__(
        self, run: Run, db: sqlite3.Connection, check_open: Callable[[], None]
    ) -> None:
        self._run = run
        self._db = db
        self._check_open = check_open
        self._over = False

    def close(self) -> None:
        """Take no more statements: the transaction is over."""
        self._over = True

    async def execute(self, statement: str, parameters: Parameters = ()) -> int:
        """Run one statement; give the number of rows it changed (-1: not a change)."""
        return await self.run(lambda db: db.execute(statement, parameters).rowcount)

    async def executemany(self, statement: str, rows: Iterable[Parameters]) -> int:
        """Run one statement for each of *rows*; give the number of rows changed."""
        return await self.run(lambda db: db.executemany(statement, rows).rowcount)

    async def fetchall(
        self, statement: str, parameters: Parameters = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement; give all its rows."""
        return await self.run(lambda db: db.execute(statement, parameters).fetchall())

    async def fetchone(
        self, statement: str, parameters: Parameters = ()
    ) -> tuple[Any, ...] | None:
        """Run one statement; give its first row, or None."""
        return await self.run(lambda db: db.execute(statement, parameters).fetchone())

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call *work* with the sqlite3 connection, on its thread; give what it gives.

        *work* has no event loop there, and must not keep the connection.
        """

        def inside() -> T | _Refused:
            self._check_open()
            try:
                done = work(self._db)
            except Exception as error:
                if is_fatal(error):
                    raise
                return _Refused(error)
            self._check_open()
            return done

        if self._over:
            raise TransactionError("the transaction of this connection is over")
        done = await self._run(inside)
        if isinstance(done, _Refused):
            raise done.error
        return done
