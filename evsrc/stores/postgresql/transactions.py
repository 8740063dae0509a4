"""Run the user's block in a transaction on a connection of the store's.

The end is checked, because the driver does not tell whether COMMIT committed: of a
transaction in which a statement failed, the server makes a ROLLBACK.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg

from ...core.errors import (
    AppendOutcomeUnknownError,
    EvsrcError,
    StoreClosedError,
    TransactionError,
)
from ...core.event import E
from ...ports import EventStore, Transaction
from ..transactions import Watched, watched
from .connections import Again, Db, Server, cut, is_gone
from .errors import connection_is_lost, is_an_answer, may_be_repeated


@asynccontextmanager
async def own_transaction(
    server: Server, inside: Callable[[Db], EventStore[E]]
) -> AsyncGenerator[tuple[Transaction[E], Watched[E]]]:
    """Begin, run the block, commit; *inside* is the store on a given connection."""
    async with AsyncExitStack() as lent:
        db, transaction = await _begun(server, lent)
        try:
            async with watched(on_connection(inside(db), db), server.where) as opened:
                yield opened
            await _check_whole(db)
        except BaseException as error:
            await _roll_back(db, transaction)
            if isinstance(error, Exception) and _is_the_servers(error, db):
                server.fail(error)
            raise
        await _commit(server, db, transaction)


def on_connection(store: EventStore[E], db: Db) -> Transaction[E]:
    """Give the transaction whose *store* works on one connection."""
    return Transaction(
        store.append,
        store.read_all,
        store.checkpoints.load,
        store.snapshots.load,
        db,
    )


def _is_the_servers(error: Exception, db: Db) -> bool:
    """Tell a deadlock or a lost connection from whatever else the block raised."""
    if isinstance(error, asyncpg.PostgresError):
        return may_be_repeated(error)
    return is_gone(db) and connection_is_lost(error)


async def _begun(server: Server, lent: AsyncExitStack) -> tuple[Db, Any]:
    """Lend a connection and begin; nothing has happened yet, so it is tried again."""
    again = Again(server.patience)
    while True:
        if server.closed:
            raise StoreClosedError(server.where)
        try:
            db = await lent.enter_async_context(server.lend_once())
            if server.end is not None:  # our own pool gives them back as they are
                lent.push_async_callback(_clean, db)
            transaction = db.transaction(isolation="read_committed")
            await transaction.start()
        except BaseException as error:
            await lent.aclose()
            if not isinstance(error, Exception):
                raise
            if not may_be_repeated(error) or not await again.pause():
                server.fail(error)
        else:
            return db, transaction


async def _clean(db: Db) -> None:
    """Leave nothing of the user's settings to the next one."""
    if not is_gone(db):
        try:
            await db.reset()
        except BaseException:
            cut(db)
            raise


async def _check_whole(db: Db) -> None:
    if not db.is_in_transaction():
        raise TransactionError(
            "a statement inside the transaction has ended it; use neither COMMIT nor "
            "ROLLBACK in the block: leave it, or raise"
        )
    try:
        await db.execute("SELECT 1")
    except asyncpg.InFailedSQLTransactionError as error:
        raise TransactionError(
            "a statement inside the transaction failed, so nothing of it is written; "
            "if that is no harm, run it in `async with tx.connection.transaction()`"
        ) from error


async def _roll_back(db: Db, transaction: Any) -> None:
    if is_gone(db):
        return
    try:
        await transaction.rollback()
    except Exception:  # noqa: BLE001 - the block's own error is told
        cut(db)
    except BaseException:
        cut(db)
        raise


async def _commit(server: Server, db: Db, transaction: Any) -> None:
    try:
        await transaction.commit()
    except BaseException as error:
        if is_an_answer(error):  # such as a constraint that is deferred to the end
            raise
        cut(db)
        if isinstance(error, EvsrcError) or not isinstance(error, Exception):
            raise
        raise AppendOutcomeUnknownError(server.where) from error
