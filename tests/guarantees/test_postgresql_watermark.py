"""R1, step by step: up to where a reader may go on while transactions are open.

`test_postgresql_order.py` does the same by chance and in bulk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from evsrc import ANY, NewEvent, StoreUnavailableError, StreamName, Write
from evsrc.stores.postgresql import PostgreSQLStore, postgresql_store
from evsrc.testing import CODEC, Fact, start_postgres

Store = PostgreSQLStore[Any]
ORDERINGS = pytest.mark.parametrize("ordering", ["serial", "concurrent"])


@pytest.fixture
def prefix() -> str:
    return f"w{uuid4().hex[:12]}"


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def write(stream: str, *numbers: int) -> Write[Any]:
    events = [NewEvent(Fact(n), uuid4()) for n in numbers]
    return Write(StreamName("water", stream), events, ANY)


async def numbers(store: Any, after: int) -> tuple[list[int], int]:
    """Give what a reader sees after a position, and where it goes on."""
    page = await store.read_all(after=after)
    return [recorded.event.n for recorded in page.events], page.reached


async def test_r1_open_appends_hold_readers_below_them(
    shared_database: str, prefix: str
) -> None:
    """Readers stop below what is open, see all of it later, and skip what is undone."""
    async with (
        await postgresql_store(
            shared_database, CODEC, prefix=prefix, ordering="concurrent"
        ) as store,
        connected(shared_database) as first,
        connected(shared_database) as second,
    ):
        await store.append(write("a", 1))
        one, two = first.transaction(), second.transaction()
        await one.start()
        await store.within(first).append(write("b", 2, 3))
        await store.append(write("c", 4))
        await two.start()
        await store.within(second).append(write("d", 5))
        await store.append(write("a", 6))
        seen, at = await numbers(store, 0)
        assert seen == [1]
        await two.commit()  # the later one first
        assert await numbers(store, at) == ([], at)
        await one.commit()
        seen, at = await numbers(store, at)
        assert seen == [2, 3, 4, 5, 6]
        await (undone := first.transaction()).start()
        await store.within(first).append(write("b", 7))
        await store.append(write("c", 8))
        assert await numbers(store, at) == ([], at)
        await undone.rollback()
        seen, at = await numbers(store, at)
        assert seen == [8]
        assert at == await store.head()


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_r1_prepared_appends_hold_readers_below_them(
    shared_database: str, prefix: str, end: str
) -> None:
    """A prepared transaction that appended holds readers until somebody ends it."""
    async with await postgresql_store(
        shared_database, CODEC, prefix=prefix, ordering="concurrent"
    ) as store:
        await store.append(write("a", 1))
        async with connected(shared_database) as db:
            await db.execute("BEGIN")
            await store.within(db).append(write("b", 2))
            await db.execute(f"PREPARE TRANSACTION '{prefix}'")
        await store.append(write("c", 3))  # its session is gone, its append is not
        seen, at = await numbers(store, 0)
        assert seen == [1]
        async with connected(shared_database) as db:
            await db.execute(f"{end} PREPARED '{prefix}'")
        seen, at = await numbers(store, at)
        assert seen == ([2, 3] if end == "COMMIT" else [3])
        assert at == await store.head()


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_r1_prepared_appends_hold_readers_also_after_a_crash(end: str) -> None:
    """A prepared append is open after a crash of the server too, and holds readers."""
    with start_postgres() as server:
        async with await postgresql_store(
            server.url, CODEC, ordering="concurrent"
        ) as store:
            async with connected(server.url) as db:
                await db.execute("BEGIN")
                await store.within(db).append(write("b", 1))
                await db.execute("PREPARE TRANSACTION 'orphan'")
            await store.append(write("c", 2))
            assert await numbers(store, 0) == ([], 0)
            await asyncio.to_thread(server.restart, "immediate")
            assert await numbers(store, 0) == ([], 0)
            await store.append(write("c", 3))
            assert await numbers(store, 0) == ([], 0)
            async with connected(server.url) as db:
                await db.execute(f"{end} PREPARED 'orphan'")
            seen, _ = await numbers(store, 0)
            assert seen == ([1, 2, 3] if end == "COMMIT" else [2, 3])


@ORDERINGS
async def test_r1_open_transactions_elsewhere_hold_nobody(
    evsrc_postgres_url: str, shared_database: str, prefix: str, ordering: Any
) -> None:
    """Neither another database, nor other tables, nor their orphans stop a reader."""
    async with (
        await postgresql_store(
            shared_database, CODEC, prefix=prefix, ordering=ordering
        ) as store,
        connected(evsrc_postgres_url) as elsewhere,
        connected(shared_database) as beside,
        connected(shared_database) as orphan,
    ):
        await beside.execute(f"CREATE TABLE {prefix}_other (n int)")
        for db in (elsewhere, beside, orphan):
            await db.execute("BEGIN")
            await db.execute("SELECT pg_current_xact_id()")
        await orphan.execute(f"INSERT INTO {prefix}_other VALUES (1)")
        await orphan.execute(f"PREPARE TRANSACTION '{prefix}'")
        await beside.execute(f"INSERT INTO {prefix}_other VALUES (2)")
        await store.append(write("a", 1, 2, 3))
        assert (await numbers(store, 0))[0] == [1, 2, 3]
        await orphan.execute(f"ROLLBACK PREPARED '{prefix}'")


async def test_r1_the_last_number_drawn_is_never_overestimated(
    shared_database: str, prefix: str
) -> None:
    """While sessions draw, what the floor and the watermark go by is no number ahead.

    `SELECT last_value` is: every 32 numbers it shows, for a moment, one 32 ahead.
    """
    async with (
        await postgresql_store(
            shared_database, CODEC, prefix=prefix, ordering="concurrent"
        ),
        connected(shared_database) as look,
    ):
        sequence = f"'{prefix}_position'::regclass"
        # no lock is taken here: the watermark is the last number drawn
        await look.execute(f"""
            CREATE FUNCTION pg_temp.ahead(looks int) RETURNS int LANGUAGE plpgsql AS $$
            DECLARE found int := 0; drawn bigint; BEGIN
              FOR i IN 1 .. looks LOOP
                drawn := {prefix}_drawn();
                IF drawn > pg_sequence_last_value({sequence}) THEN
                  found := found + 1;
                END IF;
              END LOOP;
              RETURN found;
            END $$""")
        done, looks, drawn = False, 0, 0

        async def draw() -> None:
            nonlocal drawn
            some = f"SELECT count(nextval({sequence})) FROM generate_series(1, 2000)"
            async with connected(shared_database) as db:
                while not done:
                    drawn += await db.fetchval(some)

        drawing = [asyncio.create_task(draw()) for _ in range(2)]
        found, until = 0, time.monotonic() + 3
        while time.monotonic() < until:
            looks += 5000
            found += await look.fetchval("SELECT pg_temp.ahead(5000)")
        done = True
        await asyncio.gather(*drawing)
        print(f"R1: {looks} looks while {drawn} numbers were drawn: {found} ahead")
        assert found == 0


async def test_r1_numbers_that_a_crash_gives_out_again_are_behind_no_reader() -> None:
    """Numbers drawn and not used are no progress: after a crash they come again."""
    settings = {"wal_writer_delay": "10s", "checkpoint_timeout": "1h"}
    with start_postgres(settings=settings) as server:
        async with await postgresql_store(
            server.url, CODEC, ordering="concurrent"
        ) as store:
            await store.append(write("a", 1))
            async with connected(server.url) as db:
                undone = db.transaction()
                await undone.start()
                await store.within(db).append(write("b", *range(100)))
                await undone.rollback()
            seen, at = await numbers(store, 0)
            assert seen == [1]
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await store.append(write("a", 2))
            seen, _ = await numbers(store, at)
            assert seen == [2]


async def test_r1_many_appends_in_one_transaction_hold_one_floor(
    shared_database: str, prefix: str
) -> None:
    """A transaction of many appends does not fill the server's table of locks."""
    async with (
        await postgresql_store(
            shared_database, CODEC, prefix=prefix, ordering="concurrent"
        ) as store,
        connected(shared_database) as db,
    ):
        floors = """SELECT count(*) FROM pg_locks
                    WHERE locktype = 'advisory' AND classid <> 7703
                          AND pid = pg_backend_pid()"""
        async with db.transaction():
            inside = store.within(db)
            for n in range(10):
                await inside.append(write("many", n))
                assert await db.fetchval(floors) == 1
            assert await numbers(store, 0) == ([], 0)
        async with db.transaction():  # a part that is undone takes its floor with it
            part = db.transaction()
            await part.start()
            await store.within(db).append(write("many", -1))
            await part.rollback()
            assert await db.fetchval(floors) == 0
            await store.within(db).append(write("many", 10))
            assert await db.fetchval(floors) == 1
            await store.append(write("other", 11))
            assert (await numbers(store, 0))[0] == list(range(10))
        assert (await numbers(store, 0))[0] == list(range(12))


@ORDERINGS
async def test_r1_the_log_within_a_transaction(
    shared_database: str, prefix: str, ordering: Any
) -> None:
    """Inside a transaction the log goes as far as readers elsewhere may go on.

    Serial ordering shows what the transaction wrote, because nobody else can write;
    concurrent ordering ends below it. Streams show it in both.
    """
    async with (
        await postgresql_store(
            shared_database, CODEC, prefix=prefix, ordering=ordering
        ) as store,
        connected(shared_database) as db,
    ):
        await store.append(write("a", 1, 2))
        async with db.transaction():
            inside = store.within(db)
            assert (await numbers(inside, 0))[0] == [1, 2]
            await inside.append(write("a", 3))
            seen, at = await numbers(inside, 0)
            assert seen == ([1, 2, 3] if ordering == "serial" else [1, 2])
            assert at == await inside.head()
            loaded = await inside.load_events(StreamName("water", "a"))
            assert [event.n for event in loaded.events] == [1, 2, 3]


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_r1_old_snapshots_are_refused(
    shared_database: str, prefix: str, isolation: Any
) -> None:
    """A page of a snapshot older than its watermark would miss events: it is refused."""
    async with (
        await postgresql_store(
            shared_database, CODEC, prefix=prefix, ordering="concurrent"
        ) as store,
        connected(shared_database) as db,
    ):
        transaction = db.transaction(isolation=isolation)
        await transaction.start()
        await db.fetchval("SELECT 1")  # the snapshot is taken
        await store.append(write("a", 1))
        with pytest.raises(StoreUnavailableError, match="READ COMMITTED"):
            await store.within(db).read_all()
        await transaction.rollback()


async def test_r1_standbys_are_refused(shared_database: str, prefix: str) -> None:
    """A standby knows of no locks, so it cannot tell what is final, and says so."""
    options: Any = {"prefix": prefix, "ordering": "concurrent"}
    async with (
        await postgresql_store(shared_database, CODEC, **options) as store,
        connected(shared_database) as db,
    ):
        await store.append(write("a", 1))
        await db.execute(f"""
            CREATE SCHEMA {prefix}_standby;
            CREATE FUNCTION {prefix}_standby.pg_is_in_recovery() RETURNS boolean
            LANGUAGE sql AS 'SELECT true'""")
        settings = {"search_path": f"{prefix}_standby, pg_catalog, public"}
        with pytest.raises(StoreUnavailableError, match="a standby cannot tell"):
            await postgresql_store(
                shared_database,
                CODEC,
                **options,
                patience=timedelta(0),
                connect={"server_settings": settings},
            )
