"""What the conformance suite cannot ask of transactions: the user's own SQL in them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from evsrc import (
    ANY,
    NewEvent,
    SQLiteConnection,
    StoreClosedError,
    StoreUnavailableError,
    StreamName,
    TransactionError,
    Write,
    postgresql_store,
    sqlite_store,
)
from evsrc.ports import EventStore
from evsrc.testing import CODEC, Fact
from tests.conftest import OpenStore

STREAM = StreamName("s", "1")


def write(n: int) -> Write[Any]:
    return Write(STREAM, [NewEvent(Fact(n), uuid4())], ANY)


async def rows(connection: Any) -> list[int]:
    """Give what the user's table holds, on a connection of either kind."""
    if isinstance(connection, SQLiteConnection):
        found: Any = await connection.fetchall("SELECT n FROM mine ORDER BY n")
    else:
        found = await connection.fetch("SELECT n FROM mine ORDER BY n")
    return [row[0] for row in found]


@pytest.fixture(params=["sqlite", "sqlite-memory", "postgresql"])
def evsrc_back_end(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[EventStore[Any]]:
    """Give a store in whose database the user has an empty table of his own."""
    async with await open_store() as opened:
        async with opened.transaction() as tx:
            await tx.connection.execute("DROP TABLE IF EXISTS mine")
            await tx.connection.execute("CREATE TABLE mine (n int UNIQUE)")
        yield opened


async def mine(store: EventStore[Any]) -> list[int]:
    async with store.transaction() as tx:
        return await rows(tx.connection)


async def test_rows_and_events_are_committed_together(store: EventStore[Any]) -> None:
    """The user's rows and the events are there together, or neither is."""
    async with store.transaction() as tx:
        done = await tx.append(write(1))
        await tx.connection.execute("INSERT INTO mine VALUES (1)")
        assert await rows(tx.connection) == [1], "a transaction sees what it did"
        assert await tx.append(write(2)) != done
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as tx:
            await tx.connection.execute("INSERT INTO mine VALUES (2)")
            await tx.append(write(3))
            raise ZeroDivisionError
    assert await mine(store) == [1]
    assert (await store.load_events(STREAM)).events == [Fact(1), Fact(2)]
    assert await store.verify() == ()


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_the_block_alone_ends_the_transaction(
    store: EventStore[Any], end: str
) -> None:
    """A statement that ends the transaction is an error, and the log stays sound."""
    with pytest.raises(TransactionError, match="has ended it"):
        async with store.transaction() as tx:
            await tx.append(write(1))
            await tx.connection.execute(end)
    await store.append(write(2))
    events = (await store.load_events(STREAM)).events
    assert events == ([Fact(1), Fact(2)] if end == "COMMIT" else [Fact(2)])
    assert await store.verify() == ()


async def test_an_append_is_not_undone_by_a_savepoint(tmp_path: Path) -> None:
    """On SQLite the log's head would not follow; the transaction is not committed."""
    async with await sqlite_store(tmp_path / "events.db", CODEC) as store:
        for more in ((), (2, 3)):
            with pytest.raises(TransactionError, match="has undone an append"):
                async with store.transaction() as tx:
                    await tx.append(write(0))
                    await tx.connection.execute("SAVEPOINT mine")
                    await tx.append(write(1))
                    await tx.connection.execute("ROLLBACK TO mine")
                    for n in more:
                        await tx.append(write(n))
            assert await store.head() == 0
        await store.append(write(4))
        assert [r.position for r in (await store.read_all()).events] == [1]
        assert await store.verify() == ()


async def test_the_users_errors_are_his_own(store: EventStore[Any]) -> None:
    """A statement's error is the driver's own, and takes the events back with it."""
    with pytest.raises((sqlite3.IntegrityError, asyncpg.UniqueViolationError)):
        async with store.transaction() as tx:
            await tx.append(write(1))
            for _ in range(2):
                await tx.connection.execute("INSERT INTO mine VALUES (1)")
    assert await store.head() == 0
    assert await mine(store) == []


async def test_nothing_is_used_after_its_end(store: EventStore[Any]) -> None:
    """Neither the append nor the connection outlives the block."""
    async with store.transaction() as tx:
        await tx.append(write(1))
    with pytest.raises(TransactionError, match="over"):
        await tx.append(write(2))
    with pytest.raises((TransactionError, asyncpg.InterfaceError)):
        await tx.connection.execute("INSERT INTO mine VALUES (1)")
    assert await mine(store) == []


async def test_a_transaction_inside_itself_is_refused(store: EventStore[Any]) -> None:
    """What would wait for its own end is told so, also from a task of the block."""
    async with store.transaction() as tx:
        with pytest.raises(TransactionError, match=r"`tx\.append`"):
            await asyncio.ensure_future(store.append(write(1)))
        with pytest.raises(TransactionError):
            async with store.transaction():
                pass
        await tx.append(write(2))
    assert (await store.load_events(STREAM)).events == [Fact(2)]


async def test_a_transaction_inside_itself_waits_for_no_room(
    evsrc_postgres_database: str,
) -> None:
    """Also with a pool that has no connection left for a second one."""
    async with (
        asyncio.timeout(20),
        await postgresql_store(
            evsrc_postgres_database, CODEC, max_connections=4
        ) as small,
        small.transaction() as tx,
    ):
        with pytest.raises(TransactionError):
            async with small.transaction():
                pass
        await tx.append(write(1))


async def test_transactions_at_once_lose_nothing(store: EventStore[Any]) -> None:
    """Blocks and plain appends that run at once are all there, each exactly once."""

    async def count(n: int) -> None:
        async with store.transaction() as tx:
            await tx.connection.execute(f"INSERT INTO mine VALUES ({n})")
            await asyncio.sleep(0)
            await tx.append(write(n))

    plain = [store.append(write(n)) for n in range(20, 40)]
    await asyncio.gather(*(count(n) for n in range(20)), *plain)
    events = (await store.load_events(STREAM)).events
    assert sorted(event.n for event in events) == list(range(40))
    assert await mine(store) == list(range(20))


async def test_an_open_block_does_not_keep_the_store_open(
    store: EventStore[Any],
) -> None:
    """Closing waits for a block for moments, then rolls it back."""
    begun = asyncio.Event()

    async def hold() -> None:
        async with store.transaction() as tx:
            await tx.append(write(1))
            begun.set()
            await asyncio.sleep(60)

    holding = asyncio.create_task(hold())
    await begun.wait()
    async with asyncio.timeout(20):
        await store.close()
    holding.cancel()
    await asyncio.wait([holding])
    with pytest.raises(StoreClosedError):
        async with store.transaction():
            pass


class TestPostgreSQL:
    """A failed statement ends a transaction there, whatever the block does about it."""

    @pytest.fixture(params=["postgresql"])
    def evsrc_back_end(self, request: pytest.FixtureRequest) -> str:
        return request.param

    async def test_a_hidden_failure_is_told(self, store: EventStore[Any]) -> None:
        """A swallowed error does not turn the commit into a silent rollback."""
        with pytest.raises(TransactionError, match="a statement inside"):
            async with store.transaction() as tx:
                await tx.append(write(1))
                with pytest.raises(asyncpg.PostgresError):
                    await tx.connection.execute("SELECT nonsense")
        assert await store.head() == 0

    async def test_savepoints_keep_failures_small(self, store: EventStore[Any]) -> None:
        """The user's own savepoints work inside."""
        async with store.transaction() as tx:
            await tx.append(write(1))
            with pytest.raises(asyncpg.PostgresError):
                async with tx.connection.transaction():
                    await tx.connection.execute("SELECT nonsense")
        assert (await store.load_events(STREAM)).events == [Fact(1)]

    async def test_settings_are_not_left_behind(self, open_store: OpenStore) -> None:
        """What the block sets on the connection is gone with it."""
        async with await open_store(max_connections=3) as store:
            async with store.transaction() as tx:
                await tx.connection.execute("SET work_mem = '123kB'")
            for _ in range(3):
                async with store.transaction() as tx:
                    shown = await tx.connection.fetchval("SHOW work_mem")
                    assert shown != "123kB"

    async def test_a_lost_connection_is_told(self, store: EventStore[Any]) -> None:
        """A connection that goes inside the block takes everything back."""
        with pytest.raises(StoreUnavailableError):
            async with store.transaction() as tx:
                await tx.append(write(1))
                with pytest.raises(asyncpg.PostgresError):
                    await tx.connection.execute(
                        "SELECT pg_terminate_backend(pg_backend_pid())"
                    )
                await tx.connection.execute("SELECT 1")
        assert await store.head() == 0
        await store.append(write(2))


class TestSQLite:
    """Its connection belongs to a thread."""

    @pytest.fixture(params=["sqlite"])
    def evsrc_back_end(self, request: pytest.FixtureRequest) -> str:
        return request.param

    async def test_many_statements_are_one_trip(self, store: EventStore[Any]) -> None:
        """`run` gives the connection itself to a function, and its result back."""

        def work(db: sqlite3.Connection) -> int:
            return sum(
                db.execute("INSERT INTO mine VALUES (?)", (n,)).rowcount
                for n in range(3)
            )

        async with store.transaction() as tx:
            assert await tx.connection.run(work) == 3
            changed = await tx.connection.executemany(
                "UPDATE mine SET n = n + 10 WHERE n = ?", [(0,), (1,)]
            )
            assert changed == 2
            assert await tx.connection.fetchone("SELECT max(n) FROM mine") == (11,)
            assert await tx.connection.fetchone("SELECT 1 WHERE 0") is None
        assert await mine(store) == [2, 10, 11]
