"""The PostgreSQL store: its schema, its connections, transactions, plans and views."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4
from zlib import crc32

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from evsrc import (
    ALL,
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AppendCondition,
    Appended,
    AppendOutcomeUnknownError,
    CheckpointError,
    Conflict,
    Delivery,
    DuplicateEventError,
    InvalidEventError,
    Metadata,
    NewEvent,
    Opaque,
    Park,
    PostgreSQLCheckpointRepository,
    PostgreSQLDLQRepository,
    PostgreSQLEventStore,
    Query,
    SaveCheckpoint,
    SchemaError,
    StoreBusyError,
    StoreError,
    StoreUnavailableError,
    StreamName,
    Transactional,
    TransactionError,
    Write,
    memory_store,
    migration_sql,
    postgresql_store,
    subscribe,
)
from evsrc.core.event import NO_METADATA
from evsrc.core.expectation import Expected
from evsrc.ports import Checkpoint, EventStore, Transaction
from evsrc.stores.postgresql import writer
from evsrc.stores.postgresql.schema import Names, Ordering
from evsrc.testing import CODEC, Fact, Note, Tagged, start_postgres, store_checks
from evsrc.testing.servers import PostgresServer
from tests.facade_domain import REGISTRY, opened
from tests.guarantees.test_poison import until
from tests.one_more import CASES, HERE, NEW, THERE, USED, facts

Store = EventStore[Any]
STREAM, OTHER = StreamName("thing", "1"), StreamName("other", "1")


def write(
    *numbers: int, stream: StreamName = STREAM, expected: Any = ANY
) -> Write[Any]:
    return Write(stream, facts(*numbers), expected)


async def numbers(store: Store, stream: StreamName = STREAM) -> list[int]:
    return [event.n for event in (await store.load_events(stream)).events]


@pytest.fixture
async def db(evsrc_postgres_database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(evsrc_postgres_database)
    yield connection
    await connection.close()


@pytest.fixture
async def engine(evsrc_postgres_database: str) -> AsyncIterator[AsyncEngine]:
    url = evsrc_postgres_database.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url)
    yield engine
    await engine.dispose()


# The schema.


async def test_many_processes_may_create_one_store(
    evsrc_postgres_database: str,
) -> None:
    """Of many that open a new store at once one creates it; all can use it."""
    stores = await asyncio.gather(
        *(
            postgresql_store(evsrc_postgres_database, CODEC, schema="new")
            for _ in range(8)
        )
    )
    for n, store in enumerate(stores):
        await store.append(write(n))
    assert await numbers(stores[0]) == list(range(8))
    for store in stores:
        await store.close()


async def test_printed_sql_makes_the_same_store(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """What the command prints is what opening makes, object by object."""
    command = [sys.executable, "-m", "evsrc.stores.postgresql", "--prefix=printed"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == migration_sql(prefix="printed")
    open_it = {"prefix": "printed", "migrate": False}
    with pytest.raises(SchemaError, match=r"printed does not exist.*migration_sql"):
        await postgresql_store(evsrc_postgres_database, CODEC, **open_it)
    await db.execute(done.stdout)
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, **open_it
    ) as store:
        await store.append(write(1))
    async with await postgresql_store(evsrc_postgres_database, CODEC, prefix="opened"):
        objects = "SELECT relname, relkind::text FROM pg_class WHERE relname LIKE $1"
        found = [
            {
                (name.removeprefix(prefix), kind)
                for name, kind in await db.fetch(objects, f"{prefix}%")
            }
            for prefix in ("printed", "opened")
        ]
    assert found[0] == found[1]
    assert len(found[0]) > 15
    assert migration_sql(after=1) == ""
    wrong = [*command, "--schema=no such"]
    refused = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "schema 'no such' is not" in refused.stderr


async def everything_in(db: asyncpg.Connection[Any]) -> dict[str, Any]:
    """Give what is in a database: every object with its source, and every row."""
    ours = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
    objects = await db.fetch(
        "SELECT n.nspname, c.relname, c.relkind::text, a.attname, a.atttypid "
        "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"  LEFT JOIN pg_attribute a ON a.attrelid = c.oid WHERE {ours}"
    )
    functions = await db.fetch(
        "SELECT p.proname, p.prosrc FROM pg_proc p "
        f"JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {ours}"
    )
    tables = {row["relname"] for row in objects if row["relkind"] in "rS"}
    return {
        "objects": sorted(map(repr, objects)),
        "functions": sorted(map(repr, functions)),
        "rows": {
            table: sorted(map(repr, await db.fetch(f'SELECT * FROM "{table}"')))
            for table in tables
        },
    }


@pytest.mark.parametrize("ordering", ["serial", "concurrent"])
async def test_a_store_from_the_future_is_refused_unchanged(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any], ordering: Any
) -> None:
    """A schema that a later evsrc made: both versions are named, nothing is written."""
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, ordering=ordering
    ) as store:
        await store.append(write(1, 2), also=[SaveCheckpoint("reader", 1)])
    await db.execute("INSERT INTO evsrc_schema (version) VALUES (99)")
    await db.execute("ALTER TABLE evsrc_event ADD COLUMN from_the_future int")
    before = await everything_in(db)
    assert len(before["rows"]["evsrc_event"]) == 2
    for migrate in (True, False):
        with pytest.raises(
            SchemaError,
            match="public.evsrc.* has schema version 99, this evsrc knows up to 1; upgrade",
        ):
            await postgresql_store(
                evsrc_postgres_database, CODEC, migrate=migrate, ordering=ordering
            )
    assert await everything_in(db) == before


FOREIGN = {
    "events": ("CREATE TABLE evsrc_event (x int)", '"evsrc_event" is there without'),
    "leases": (
        "CREATE TABLE evsrc_lease (name text); INSERT INTO evsrc_lease VALUES ('x')",
        '"evsrc_lease" is there without "public"."evsrc_schema".* choose another',
    ),
    "view": (
        "CREATE VIEW evsrc_tag AS SELECT 1 AS n",
        '"evsrc_tag" is there without',
    ),
    "schema": (
        "CREATE TABLE evsrc_schema (name text)",
        '"evsrc_schema" is not a table of evsrc .*choose another schema or prefix',
    ),
    "versions": (
        "CREATE TABLE evsrc_schema (version text); INSERT INTO evsrc_schema VALUES ('v2')",
        "no schema version, but 'v2': it was not made by evsrc",
    ),
    "empty": (
        "CREATE TABLE evsrc_schema (version int)",
        "no schema version, but None",
    ),
    "whole set": (
        """CREATE TABLE evsrc_schema (version int); INSERT INTO evsrc_schema VALUES (1);
        CREATE TABLE evsrc_event (id int); INSERT INTO evsrc_event VALUES (1);
        CREATE TABLE evsrc_log (line text); INSERT INTO evsrc_log VALUES ('x')""",
        'store .* is not complete: column "ordering" does not exist',
    ),
    "index": (
        "CREATE TABLE theirs (n int); CREATE INDEX evsrc_event_id ON theirs (n)",
        '"evsrc_event_id" already exists; choose another schema or prefix',
    ),
    "function": (
        "CREATE FUNCTION evsrc_drawn() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        '"evsrc_drawn" already exists .*choose another schema or prefix',
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
async def test_what_is_not_ours_is_refused_unchanged(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any], what: str
) -> None:
    """Foreign tables, views, indexes and functions are named, and stay as they are."""
    script, told = FOREIGN[what]
    await db.execute(script)
    before = await everything_in(db)
    with pytest.raises(SchemaError, match=told):
        await postgresql_store(evsrc_postgres_database, CODEC)
    assert await everything_in(db) == before


async def test_another_ordering_is_refused(evsrc_postgres_database: str) -> None:
    """It was settled when the store was created."""
    async with await postgresql_store(evsrc_postgres_database, CODEC):
        pass
    with pytest.raises(
        SchemaError, match="has serial ordering, it was opened with con"
    ):
        await postgresql_store(evsrc_postgres_database, CODEC, ordering="concurrent")


@pytest.mark.parametrize(
    "name", ["", "Upper", 'a"b', "a;b", "a b", "ä", "x" * 41, "1a", "a\0"]
)
async def test_names_are_checked(name: str) -> None:
    """Nothing that is no plain identifier gets near SQL."""
    for names in ({"schema": name}, {"prefix": name}):
        with pytest.raises(ValueError, match="lower-case letters, digits and _"):
            await postgresql_store("postgresql://nowhere", CODEC, **names)
    assert Names("select", "user").qualified("event") == '"select"."user_event"'


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"ordering": "none"}, "serial or concurrent"),
        ({"largest_commit": 0}, "at least 1"),
        ({"max_connections": 2}, "a pool of at least 3 connections"),
        ({"ordering": "concurrent", "replica": "x"}, "needs serial ordering"),
    ],
)
async def test_arguments_that_mean_nothing(wrong: dict[str, Any], told: str) -> None:
    """They are refused before anything is opened."""
    with pytest.raises(ValueError, match=told):
        await postgresql_store("postgresql://nowhere", CODEC, **wrong)
    with pytest.raises(TypeError, match="a DSN, an asyncpg pool"):
        await postgresql_store(7, CODEC)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailableError, match="DSN cannot be used"):
        await postgresql_store("mysql://u:hidden@h/d", CODEC)


async def test_x4_stores_in_one_database_do_not_meet(
    evsrc_postgres_database: str,
) -> None:
    """Two prefixes in one schema, and another schema: each is alone."""
    places: list[dict[str, Any]] = [
        {"prefix": "one"},
        {"prefix": "two", "ordering": "concurrent"},
        {"schema": "user", "prefix": "one"},
    ]
    stores = [
        await postgresql_store(evsrc_postgres_database, CODEC, **p) for p in places
    ]
    new = facts(1)
    for n, store in enumerate(stores):
        # the same ids and names everywhere: no store knows of the others
        also = [SaveCheckpoint("reader", n + 1)]
        done = await store.append(Write(STREAM, new, NO_STREAM), write(n), also=also)
        assert isinstance(done, Appended)
        assert not done.repeated
        assert await store.leases.acquire("x", str(n), timedelta(seconds=1)) is not None
    for n, store in enumerate(stores):
        assert [r.event.n for r in (await store.read_all()).events] == [1, n]
        assert await store.checkpoints.load("reader") == Checkpoint("reader", n + 1)
        await store.checkpoints.delete("reader")
        assert await store.verify() == ()
        await store.close()


async def test_events_are_facts(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """Not even the owner changes or deletes an event by accident."""
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        await store.append(write(1))
        for statement in (
            "UPDATE evsrc_event SET at = 0",
            "DELETE FROM evsrc_event",
            "TRUNCATE evsrc_event",
        ):
            with pytest.raises(asyncpg.RaiseError, match="events are facts"):
                await db.execute(statement)
        assert await numbers(store) == [1]


async def test_people_can_read_it(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """The views show JSON as text, times as times, and bytes that are no text as hex."""
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        event = NewEvent(Note("größer"), uuid4())
        await store.append(Write(STREAM, [event], ANY), also=[SaveCheckpoint("r", 1)])
        row = await db.fetchrow("SELECT * FROM evsrc_events")
        assert row is not None
        assert row["data"] == '{"text":"größer"}'
        assert row["event_id"] == event.id
        (recorded,) = (await store.read_all()).events
        assert row["recorded_at"] == recorded.recorded_at
        assert await db.fetchval("SELECT evsrc_text('\\xff00'::bytea)") == "ff00"
        streams = await db.fetch("SELECT * FROM evsrc_streams")
        assert [tuple(each) for each in streams] == [("thing", "1", 1)]
        assert await db.fetchval("SELECT position FROM evsrc_checkpoints") == 1


# Where connections come from.


@pytest.mark.parametrize("source", ["pool", "sessions"])
async def test_borrowed_connections(
    evsrc_postgres_database: str, engine: AsyncEngine, source: str
) -> None:
    """A store over the user's pool or sessions passes the suite, and closes neither."""
    async with asyncpg.create_pool(
        evsrc_postgres_database, min_size=1, max_size=4
    ) as pool:
        theirs: Any = pool if source == "pool" else async_sessionmaker(engine)
        for n, check in enumerate(store_checks[::3]):
            async with await postgresql_store(theirs, CODEC, prefix=f"s{n}") as store:
                await check(store)
        assert await pool.fetchval("SELECT 1") == 1
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar() == 1


async def test_the_pools_own_codecs_do_not_matter(evsrc_postgres_database: str) -> None:
    """Checkpoints and conditions pass through a pool that turns JSON into Python values."""

    async def convert(db: asyncpg.Connection[Any]) -> None:
        for name in ("json", "jsonb"):
            await db.set_type_codec(
                name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
            )

    both = Query.of(tags=["a", "b"])
    new = NewEvent(Tagged(1, ("a", "b")), uuid4())
    async with (
        asyncpg.create_pool(
            evsrc_postgres_database, min_size=1, max_size=4, init=convert
        ) as pool,
        await postgresql_store(pool, CODEC) as store,
    ):
        for again in (1, 2):
            told = await asyncio.gather(
                store.append(Write(STREAM, [new], AppendCondition(both))),
                store.append(write(again), also=[SaveCheckpoint("c", again, None)]),
            )
            assert all(isinstance(each, Appended) for each in told)
        assert len((await store.read_all(both)).events) == 1
        new = NewEvent(Tagged(2, ("b", "a")), uuid4())
        refused = await store.append(Write(STREAM, [new], AppendCondition(both)))
        assert isinstance(refused, Conflict)


async def test_a_pool_has_room_for_notices(evsrc_postgres_database: str) -> None:
    """With a single connection, notices and appends would wait for each other."""
    async with asyncpg.create_pool(
        evsrc_postgres_database, min_size=1, max_size=1
    ) as pool:
        with pytest.raises(ValueError, match="a pool of at least 2 connections"):
            await postgresql_store(pool, CODEC)


async def test_closing_does_not_wait_for_a_stuck_read(
    evsrc_postgres_database: str,
) -> None:
    """A read that waits for a lock is ended when the store is closed."""
    async with asyncio.timeout(30):
        store = await postgresql_store(evsrc_postgres_database, CODEC)
        other: asyncpg.Connection[Any] = await asyncpg.connect(evsrc_postgres_database)
        async with other.transaction():
            await other.execute("LOCK TABLE evsrc_event IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.create_task(store.read_all())
            while not await other.fetchval(WAITING):
                await asyncio.sleep(0)
            await store.close()
            with pytest.raises(StoreError):
                await reading
        await other.close()


async def test_sessions_of_another_driver_are_refused() -> None:
    """Only asyncpg's connections can be borrowed."""
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(StoreUnavailableError, match=r"not on postgresql\+asyncpg"):
        await postgresql_store(async_sessionmaker(engine), CODEC)
    await engine.dispose()


async def test_options_reach_the_driver(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """Settings, TLS and the number of connections are what was asked for."""
    with pytest.raises(StoreError, match="SSL"):
        await postgresql_store(
            evsrc_postgres_database,
            CODEC,
            connect={"ssl": "require"},
            patience=timedelta(0),
        )
    settings = {"server_settings": {"application_name": "night shift"}}
    counting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, max_connections=3, connect=settings
    ) as store:
        await asyncio.gather(
            *(store.read_all() for _ in range(50)), store.append(write(1))
        )
        assert 1 <= await db.fetchval(counting, "night shift") <= 3
    assert await store_is_gone(db, counting)


async def test_few_connections_serve_everybody(evsrc_postgres_database: str) -> None:
    """Connections that are kept for their next use are given to those who wait."""
    short, begun, over = timedelta(seconds=3), asyncio.Event(), asyncio.Event()
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, max_connections=3, timeout=short
    ) as store:

        async def block(n: int) -> None:
            async with store.transaction() as tx:
                begun.set()
                await over.wait()
                await tx.append(write(n))

        await store.append(write(0))  # from here on one listens
        holding = asyncio.create_task(block(1))
        await begun.wait()
        await asyncio.gather(  # they share the third
            *(store.read_all() for _ in range(20)),
            *(store.append(write(n)) for n in range(10)),
        )
        over.set()
        await holding
        await asyncio.gather(
            *(store.read_all() for _ in range(20)), *map(block, range(9))
        )
        assert len(await numbers(store)) == 21


async def store_is_gone(db: asyncpg.Connection[Any], counting: str) -> bool:
    """A backend ends a moment after its connection."""
    async with asyncio.timeout(5):
        while await db.fetchval(counting, "night shift"):
            await asyncio.sleep(0)
    return True


@pytest.mark.parametrize(
    ("largest", "commits"), [(500, range(1, 10)), (1, range(32, 33))]
)
async def test_appends_share_commits(
    evsrc_postgres_database: str,
    db: asyncpg.Connection[Any],
    largest: int,
    commits: range,
) -> None:
    """Waiting appends share a transaction, up to the limit that was given."""
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, largest_commit=largest
    ) as store:
        await asyncio.gather(
            *(store.append(write(n, stream=StreamName("s", str(n)))) for n in range(32))
        )
    seen = await db.fetchval("SELECT count(DISTINCT xmin::text) FROM evsrc_event")
    assert seen in commits


@pytest.mark.parametrize("odd", [None, "stale", "again", "taken"])
async def test_lone_events_share_a_commit_and_are_judged_alone(
    evsrc_postgres_database: str, odd: str | None
) -> None:
    """Single events of different streams are written as a set, unless one is odd."""
    streams = [StreamName("s", str(n)) for n in range(8)]
    expected = [ANY, STREAM_EXISTS, 1]
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        first = [write(n, stream=name, expected=0) for n, name in enumerate(streams)]
        done = await asyncio.gather(*(store.append(each) for each in first))
        start = max(one.position for one in done if isinstance(one, Appended))
        second = [
            write(n, stream=name, expected=expected[n % 3])
            for n, name in enumerate(streams)
        ]
        odds = {
            "stale": write(9, stream=streams[4], expected=0),
            "again": first[4],
            "taken": Write(streams[4], first[5].events, ANY),
        }
        if odd is not None:
            second[4] = odds[odd]
        found = await asyncio.gather(
            *(store.append(each) for each in second), return_exceptions=True
        )
        kept = (await store.read_all(after=start)).events
        assert await store.verify() == ()
    match odd, found[4]:
        case "stale", outcome:
            assert outcome == Conflict(streams[4], 0, 1)
        case "again", outcome:
            assert outcome == Appended(done[4].placed, repeated=True)
        case "taken", outcome:
            assert isinstance(outcome, DuplicateEventError)
        case _:
            pass
    placed = [
        one.placed[0] for one in found if isinstance(one, Appended) and not one.repeated
    ]
    assert len(placed) == 8 - (odd is not None)
    assert [(p.stream, p.version, p.last_position) for p in placed] == [
        (recorded.stream, recorded.version, recorded.position) for recorded in kept
    ]


async def test_a_missing_driver_is_named() -> None:
    """Without asyncpg the error says which extra to install; the rest works."""
    script = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "import evsrc; evsrc.sqlite_store\n"
        "try: evsrc.postgresql_store\n"
        "except evsrc.MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'evsrc-py[postgresql]'" in done.stdout


# Transactions of the caller.


async def test_appends_join_an_asyncpg_transaction(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """The caller's rows and the events are there together, or not at all."""
    await db.execute("CREATE TABLE theirs (n int)")
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        inside = store.within(db)
        with pytest.raises(StoreUnavailableError, match="in no transaction"):
            await inside.append(write(0))
        async with db.transaction():
            await db.execute("INSERT INTO theirs VALUES (1)")
            done = await inside.append(write(1), also=[SaveCheckpoint("r", 1)])
            assert isinstance(done, Appended)
            lost = await inside.append(write(2, expected=NO_STREAM))
            assert lost == Conflict(STREAM, NO_STREAM, 1)
            assert await numbers(inside) == [1]
            assert await numbers(store) == [], "it is not committed yet"
            assert (await inside.read_all()).head == 1
        assert await numbers(store) == [1]
        assert await store.checkpoints.load("r") == Checkpoint("r", 1)
        with pytest.raises(ZeroDivisionError):
            async with db.transaction():
                await db.execute("INSERT INTO theirs VALUES (2)")
                await inside.append(write(2))
                raise ZeroDivisionError
        assert await numbers(store) == [1]
        assert await db.fetchval("SELECT count(*) FROM theirs") == 1
        await store.append(write(3))
        assert (await store.read_all()).head == 2, "the rolled back position is used"
        await inside.close()
        assert await numbers(store) == [1, 3]


async def test_a_handler_whose_connection_ends_is_given_its_events_again(
    evsrc_postgres_database: str,
) -> None:
    """The driver's error in its transaction is an outage, not the event's failure."""
    calls = 0

    async def apply(tx: Transaction[Any], _: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            end = "SELECT pg_terminate_backend(pg_backend_pid())"
            await tx.connection.execute(end)

    parking: Delivery[Any] = Delivery(on_failure=lambda _: Park())
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        await store.append(write(1))
        async with subscribe(store, "w", Transactional(apply), parking) as running:
            await running.wait_for(1, timedelta(seconds=20))
            assert (calls, running.failed, running.parked) == (2, 0, 0)


async def test_an_append_that_fails_inside_ends_with_the_transaction(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """A used id is an error with its name; a repetition in a transaction is success."""
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        first = write(1)
        await store.append(first)
        async with db.transaction():
            again = await store.within(db).append(first)
            assert isinstance(again, Appended)
            assert again.repeated
            with pytest.raises(DuplicateEventError):
                await store.within(db).append(
                    Write(StreamName("else", "where"), first.events, ANY)
                )
            await db.execute("SELECT 1")  # it was seen before anything was written
        async with db.transaction(isolation="serializable"):
            with pytest.raises(StoreUnavailableError, match="READ COMMITTED"):
                await store.within(db).append(write(2))


async def test_appends_join_a_sqlalchemy_session(
    evsrc_postgres_database: str, engine: AsyncEngine
) -> None:
    """The same with a session, and with a connection, also as its first action."""
    sessions = async_sessionmaker(engine)
    async with await postgresql_store(sessions, CODEC) as store:
        async with sessions() as session, session.begin():
            await session.execute(text("CREATE TABLE theirs (n int)"))
        async with sessions() as session, session.begin():
            await store.within(session).append(write(1))
            await session.execute(text("INSERT INTO theirs VALUES (1)"))
        assert await numbers(store) == [1]
        with pytest.raises(ZeroDivisionError):
            async with sessions() as session, session.begin():
                await session.execute(text("INSERT INTO theirs VALUES (2)"))
                await store.within(session).append(write(2))
                raise ZeroDivisionError
        async with engine.connect() as connection:
            await store.within(connection).append(write(3))
            assert await numbers(store.within(connection)) == [1, 3]
            await connection.rollback()
            found = await connection.execute(text("SELECT n FROM theirs"))
            assert list(found) == [(1,)]
        assert await numbers(store) == [1]


async def test_concurrent_appends_that_collide_in_a_transaction(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """With concurrent ordering the later of two gets a clear error, and can go again."""
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, ordering="concurrent"
    ) as store:
        open_transaction = db.transaction()
        await open_transaction.start()
        await store.within(db).append(write(1))
        other: asyncpg.Connection[Any] = await asyncpg.connect(evsrc_postgres_database)
        second = other.transaction()
        await second.start()
        waiting = asyncio.create_task(store.within(other).append(write(2)))
        blocked = WAITING
        while not await store_locks(evsrc_postgres_database, blocked):
            await asyncio.sleep(0)
        await open_transaction.commit()
        with pytest.raises(StoreBusyError):
            await waiting
        await second.rollback()
        async with other.transaction():
            await store.within(other).append(write(2))
        await other.close()
        assert await numbers(store) == [1, 2]
        assert [r.event.n for r in (await store.read_all()).events] == [1, 2]


async def test_an_append_that_waits_too_long_says_that_nothing_was_written(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """Behind a transaction of somebody else it gives up before its outcome is unknown."""
    half = timedelta(seconds=0.5)
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, timeout=half
    ) as store:
        async with db.transaction():
            await store.within(db).append(write(1))
            assert await db.fetchval("SHOW lock_timeout") == "0", "that is the caller's"
            with pytest.raises(StoreBusyError, match="lock timeout"):
                await store.append(write(2))
        await store.append(write(3))
        assert await numbers(store) == [1, 3]


class Calls:
    """Which functions of the store its own connections call; !: in vain, by an error."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.connections: list[Any] = []

    async def init(self, connection: Any) -> None:
        self.connections.append(connection)
        connection.add_query_logger(self._log)

    def _log(self, done: Any) -> None:
        found = re.match(r"SELECT (?:\* FROM )?\S+evsrc_(append\w*)", done.query)
        if found:
            self.made.append(found[1] + "!" * (done.exception is not None))

    async def of(self, store: Store, *writes: Write[Any], also: Any = ()) -> Any:
        """Append; give the verdict, and the functions that were called for it."""
        await asyncio.sleep(0)  # the log is told in the loop's next turn
        self.made.clear()
        try:
            done = await store.append(*writes, also=also)
        except DuplicateEventError as error:
            done = error
        await asyncio.sleep(0)
        return done, list(self.made)

    async def tell(self, statement: str) -> None:
        """Execute a statement on each connection, as soon as it is not in use."""
        for connection in self.connections:
            told = False
            while not told:
                try:
                    await connection.execute(statement)
                    told = True
                except asyncpg.InterfaceError:  # it gives notice
                    await asyncio.sleep(0)


@pytest.fixture
def calls() -> Calls:
    return Calls()


async def settled(store: Store) -> None:
    """Append twice: the second time on the connection that appends keep."""
    for version in range(2):
        await store.append(Write(OTHER, facts(1), version))


@pytest.mark.parametrize(("writes", "also", "alone", "outcome"), CASES)
async def test_one_more_event_takes_no_look(
    writes: list[Write[Any]],
    also: Any,
    alone: bool,
    outcome: Any,
    evsrc_postgres_database: str,
    calls: Calls,
) -> None:
    """Of a stream that is known; what is more than that is judged by the database."""
    url, connect = evsrc_postgres_database, {"init": calls.init}
    async with await postgresql_store(url, CODEC, connect=connect) as store:
        await settled(store)
        await store.append(Write(THERE, USED, 0))
        for version in range(4):
            await store.append(Write(HERE, facts(version), version))
        hour = timedelta(hours=1)
        waiting = asyncio.create_task(store.changed(7, timeout=hour))
        await asyncio.sleep(0)
        done, made = await calls.of(store, *writes, also=also)
        assert isinstance(done, outcome)
        assert (made == ["append_next"]) == alone, made
        if any(write.events is USED for write in writes):
            assert made == ["append_next!", "append"]
        if alone:
            found = await waiting
            assert found is not None
            (recorded,) = found.page.events
            assert (recorded.version, found.page.reached) == (done.version, 8)
            assert (await store.read_all(after=7)).events == (recorded,)
        waiting.cancel()
        added = sum(len(write.events) for write in writes)
        fresh = isinstance(done, Appended) and not done.repeated
        assert await store.head() == 7 + fresh * added
        (last,) = (await store.read_stream(HERE, backward=True, limit=1)).events
        done = await store.append(Write(HERE, facts(9), last.version))
        assert isinstance(done, Appended)
        assert await store.verify() == ()


TWO = facts(1, 2)
"""The two events in NEW; in HERE there are three others."""
TAGS = NewEvent[Any](Tagged(1, ("x",)), uuid4())
BOUNDARY = AppendCondition(Query.of(categories=["x"]))
SHORT, LONG, BOTH, VAIN = (
    ["append_stream"],
    ["append"],
    ["append_stream", "append"],
    ["append_stream!", "append"],
)


@pytest.mark.parametrize(
    ("write", "made", "outcome"),
    [
        (Write(HERE, facts(1, 2), 3), SHORT, Appended),
        (Write(HERE, facts(1, 2, 3), ANY), SHORT, Appended),
        (Write(HERE, facts(1, 2), STREAM_EXISTS), SHORT, Appended),
        (Write(OTHER, facts(1, 2), 0), SHORT, Appended),
        (Write(OTHER, facts(1, 2), ANY), SHORT, Appended),
        (Write(HERE, facts(1, 2), 2), BOTH, Conflict),
        (Write(HERE, facts(1, 2), 4), BOTH, Conflict),
        (Write(HERE, facts(1, 2), NO_STREAM), BOTH, Conflict),
        (Write(OTHER, facts(1, 2), STREAM_EXISTS), BOTH, Conflict),
        (Write(OTHER, facts(1) * 2, 0), VAIN, DuplicateEventError),
        (Write(HERE, TWO, ANY), VAIN, DuplicateEventError),
        (Write(NEW, [*TWO, *facts(3)], ANY), VAIN, DuplicateEventError),
        (Write(NEW, TWO, ANY), VAIN, Appended),
        (Write(NEW, TWO, 0), BOTH, Appended),
        (Write(HERE, [TAGS, *facts(1)], 3), LONG, Appended),
        (Write(HERE, facts(1, 2), BOUNDARY), LONG, Appended),
    ],
)
async def test_several_events_of_a_stream_have_a_call_of_their_own(
    write: Write[Any],
    made: list[str],
    outcome: Any,
    evsrc_postgres_database: str,
    calls: Calls,
) -> None:
    """What stands against them is judged by the one that judges everything."""
    url, connect = evsrc_postgres_database, {"init": calls.init}
    async with (
        await postgresql_store(url, CODEC, connect=connect) as store,
        memory_store(CODEC) as model,
    ):
        for each in (Write(HERE, facts(1, 2, 3), 0), Write(NEW, TWO, 0)):
            assert await store.append(each) == await model.append(each)
        hour = timedelta(hours=1)
        waiting = asyncio.create_task(store.changed(5, timeout=hour))
        await asyncio.sleep(0)
        done, called = await calls.of(store, write)
        assert isinstance(done, outcome)
        assert called == made
        if outcome is DuplicateEventError:
            with pytest.raises(DuplicateEventError):
                await model.append(write)
        else:
            assert done == await model.append(write)
        if made == SHORT:
            found = await waiting
            assert found is not None
            assert found.page.events == (await store.read_all(after=5)).events
        waiting.cancel()
        assert await rows(store) == await rows(model)
        assert await store.verify() == ()
        version = (await store.load_events(write.stream)).version
        done, called = await calls.of(store, Write(write.stream, facts(9), version))
        assert isinstance(done, Appended)
        assert called == ["append_next"] or made not in (SHORT, LONG)


async def rows(store: Store) -> list[Any]:
    """Give all events but for their times."""
    return [
        (each.position, each.stream, each.version, each.id, each.event, each.metadata)
        for each in (await store.read_all(limit=100)).events
    ]


async def test_several_events_of_a_stream_keep_their_metadata(
    evsrc_postgres_database: str,
) -> None:
    """Each its own, or none; what is read is checked against its checksums."""
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        told = [Metadata(actor_id="a"), NO_METADATA, Metadata(actor_id="b")]
        news = [NewEvent[Any](Fact(n), uuid4(), each) for n, each in enumerate(told)]
        await store.append(Write(HERE, news, 0))
        found = (await store.read_all()).events
        assert [each.metadata for each in found] == told
        assert await store.verify() == ()


async def test_appends_that_share_a_call_make_their_streams_known(
    evsrc_postgres_database: str, calls: Calls
) -> None:
    """So do several writes of one append, and several events of one write."""
    url, connect = evsrc_postgres_database, {"init": calls.init}
    async with await postgresql_store(url, CODEC, connect=connect) as store:
        await settled(store)
        both = Write(HERE, facts(1), 0), Write(THERE, facts(1), 0)
        await asyncio.gather(*map(store.append, both))
        assert (await calls.of(store, Write(THERE, facts(2), 1)))[1] == ["append_next"]
        await store.append(Write(HERE, facts(2, 3), 1), Write(THERE, facts(3), 2))
        done, made = await calls.of(store, Write(HERE, facts(4), 3))
        assert (done.version, done.position, made) == (4, 9, ["append_next"])
        again = Write(NEW, facts(1), 0), both[1], Write(HERE, facts(5), 4)
        done = await asyncio.gather(*map(store.append, again))
        assert [(one.version, one.repeated) for one in done] == [
            (1, False),
            (1, True),
            (5, False),
        ]
        _, made = await calls.of(store, Write(HERE, facts(6), 5))
        assert made == ["append_one"], "others were about just now"
        assert (await calls.of(store, Write(THERE, facts(4), 3)))[1] == ["append_next"]
        assert await store.verify() == ()


async def test_writers_that_take_turns_take_a_look(
    evsrc_postgres_database: str, calls: Calls
) -> None:
    """One that finds the log elsewhere looks where it is, until it is alone again."""
    url, connect = evsrc_postgres_database, {"init": calls.init}
    versions, heads = (
        {HERE: iter(range(99)), THERE: iter(range(99))},
        iter(range(3, 99)),
    )

    async def made(store: Store, stream: StreamName) -> list[str]:
        done, made = await calls.of(
            store, Write(stream, facts(1), next(versions[stream]))
        )
        assert done.position == next(heads)
        return [name.removeprefix("append_") for name in made]

    async with (
        await postgresql_store(url, CODEC, connect=connect) as one,
        await postgresql_store(url, CODEC, connect=connect) as two,
    ):
        await settled(one)
        assert [await made(one, HERE) for _ in range(3)] == [["one"], *[["next"]] * 2]
        assert await made(two, THERE) == ["one"]
        assert await made(one, HERE) == ["next", "one"]  # in vain
        for _ in range(3):
            assert await made(two, THERE) == ["one"]
            assert await made(one, HERE) == ["one"]
        assert [await made(one, HERE) for _ in range(3)] == [["one"], *[["next"]] * 2]
        assert await made(two, HERE) == ["one"]
        version = next(versions[HERE])
        behind = Write(HERE, facts(1), version - 1)
        conflict, judged = (
            Conflict(HERE, version - 1, version),
            ["append_one", "append"],
        )
        assert await calls.of(one, behind) == (conflict, ["append_next", *judged])
        assert await calls.of(one, behind) == (conflict, judged), "once is enough"
        for n in range(3):
            await one.append(Write(HERE, facts(n), ANY))
        await two.append(Write(HERE, facts(1), ANY))
        for version in range(2):
            await one.append(Write(NEW, facts(1), version))
        behind = Write(HERE, facts(1), ANY)
        assert (await calls.of(one, behind))[1] == ["append_one"], "two was there"
        assert await one.verify() == ()


async def test_a_new_connection_takes_a_look(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any], calls: Calls
) -> None:
    """It may be one to another server, where the log is not what it was."""
    url, connect = evsrc_postgres_database, {"init": calls.init}
    async with await postgresql_store(url, CODEC, connect=connect) as store:
        for version in range(3):
            await store.append(Write(HERE, facts(version), version))
        for connection in calls.connections:
            process = connection.get_server_pid()
            await db.execute("SELECT pg_terminate_backend($1, 5000)", process)
        await until(lambda: all(each.is_closed() for each in calls.connections))
        done, made = await calls.of(store, Write(HERE, facts(1), 3))
        assert isinstance(done, Appended)
        assert made == ["append_one"]
        while made == ["append_one"]:  # notices may take the connection meanwhile
            done, made = await calls.of(store, Write(HERE, facts(1), done.version))
            assert isinstance(done, Appended)
        assert made == ["append_next"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
async def test_one_more_event_that_cannot_be_stored_is_refused(
    evsrc_postgres_database: str, calls: Calls, name: str
) -> None:
    """With nothing sent; the next one is as quick."""
    url, connect = evsrc_postgres_database, {"init": calls.init}
    async with await postgresql_store(url, CODEC, connect=connect) as store:
        await settled(store)
        await store.append(Write(HERE, facts(1), 0))
        wrong = NewEvent[Any](Opaque(name, b"{}"), uuid4())
        for expected in (1, ANY):
            with pytest.raises(InvalidEventError):
                await store.append(Write(HERE, [wrong], expected))
        assert (await calls.of(store, Write(HERE, facts(2), 1)))[1] == ["append_next"]


async def test_one_more_event_is_refused_inside_a_transaction(
    evsrc_postgres_database: str,
) -> None:
    """As any append that would wait for the transaction that its caller is in."""
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        await settled(store)
        await store.append(Write(HERE, facts(1), 0))
        async with store.transaction() as tx:
            with pytest.raises(TransactionError, match=r"append with `tx\.append`"):
                await store.append(Write(HERE, facts(2), 1))
            await tx.append(Write(HERE, facts(2), 1))
        assert await numbers(store, HERE) == [1, 2]


async def test_not_more_than_so_many_streams_are_known(
    evsrc_postgres_database: str, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that writes to ever new streams does not grow."""
    monkeypatch.setattr(writer, "_MOST_STREAMS", 3)
    url, connect = evsrc_postgres_database, {"init": calls.init}
    async with await postgresql_store(url, CODEC, connect=connect) as store:
        await settled(store)
        for n in range(4):
            await store.append(Write(StreamName("many", str(n)), facts(1), 0))
        for n, name in ((3, "append_next"), (0, "append_one")):
            write = Write(StreamName("many", str(n)), facts(1), 1)
            assert (await calls.of(store, write))[1] == [name]


async def test_an_ordering_that_somebody_changes_ends_appends(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """Also of events of a stream that is known."""
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        await settled(store)
        await store.append(Write(HERE, facts(1), 0))
        await db.execute("UPDATE evsrc_log SET ordering = 'concurrent'")
        for news in (facts(2), facts(2, 3)):
            with pytest.raises(SchemaError, match="ordering"):
                await store.append(Write(HERE, news, 1))
        assert await numbers(store, HERE) == [1]


APPENDS: dict[str, list[list[Write[Any]]]] = {
    "append_next": [[Write(HERE, facts(2), 2)]],
    "append_one": [[Write(NEW, facts(1), 0)]],
    "append_stream": [[Write(NEW, facts(1, 2), 0)]],
    "append_each": [[Write(name, facts(1), 0)] for name in (NEW, THERE, OTHER)],
    "append": [[Write(NEW, facts(1), 0), Write(THERE, facts(1), 0)]],
}
"""Appends at the same time, by the function that they are to call."""


@pytest.mark.parametrize("name", APPENDS)
@pytest.mark.parametrize(
    ("setting", "usual", "why"),
    [
        ("synchronous_commit", "on", "synchronous_commit=off"),
        ("default_transaction_isolation", "'read committed'", "READ COMMITTED"),
    ],
)
async def test_settings_are_looked_at_in_each_append(
    evsrc_postgres_database: str,
    calls: Calls,
    name: str,
    setting: str,
    usual: str,
    why: str,
) -> None:
    """They may change while a store is open; where they would do harm, all is refused."""
    url, connect = evsrc_postgres_database, {"init": calls.init}
    harmless = name == "append_next" and why == "READ COMMITTED"  # it compares the head
    unusual = "off" if usual == "on" else "'serializable'"
    async with await postgresql_store(url, CODEC, connect=connect) as store:
        for version in range(2):
            await store.append(Write(HERE, facts(version), version))
        await calls.tell(f"SET {setting} = {unusual}")
        for expected in [Appended] if harmless else [StoreUnavailableError, Appended]:
            told = await asyncio.gather(
                *(store.append(*writes) for writes in APPENDS[name]),
                return_exceptions=True,
            )
            assert [type(each) for each in told] == [expected] * len(told)
            if expected is not Appended:
                assert all(why in str(each) for each in told)
                assert await store.head() == 2
                await calls.tell(f"SET {setting} = {usual}")
        await asyncio.sleep(0)  # the log is told in the loop's next turn
        assert name in {made.strip("!") for made in calls.made}


@pytest.mark.parametrize("news", [facts(2), facts(2, 2)], ids=["one", "several"])
@pytest.mark.parametrize("lock", ["the line", "the log", "a table"])
async def test_more_events_wait_in_line(
    evsrc_postgres_database: str,
    db: asyncpg.Connection[Any],
    calls: Calls,
    lock: str,
    news: list[NewEvent[Any]],
) -> None:
    """They wait as long as any append, and then nothing of them is written."""
    url, half = evsrc_postgres_database, timedelta(seconds=0.5)
    connect = {"init": calls.init}
    async with await postgresql_store(
        url, CODEC, timeout=half, connect=connect
    ) as store:
        for version in range(2):
            await store.append(Write(HERE, facts(version), version))
        async with db.transaction():
            if lock == "the line":  # as whoever has judged, and not yet written
                line = (
                    "SELECT pg_advisory_xact_lock(7701, 'evsrc_event'::regclass::int)"
                )
                await db.execute(line)
            elif lock == "the log":
                await store.within(db).append(Write(THERE, facts(1), 0))
            else:
                await db.execute("LOCK TABLE evsrc_event IN SHARE MODE")
            with pytest.raises(StoreBusyError, match="lock timeout"):
                await store.append(Write(HERE, news, 2))
        assert isinstance(await store.append(Write(HERE, news, 2)), Appended)
        assert await numbers(store, HERE) == [0, 1, *[2] * len(news)]
        async with db.transaction():
            await store.within(db).append(Write(THERE, facts(2), ANY))
            more = Write(HERE, facts(*[3] * len(news)), 2 + len(news))
            waiting = asyncio.create_task(calls.of(store, more))
            while not await store_locks(url, WAITING):
                await asyncio.sleep(0)
        done, made = await waiting
        assert isinstance(done, Appended)
        assert made[-1] == ("append_one" if len(news) == 1 else "append_stream")
        assert await store.verify() == ()


async def test_a_checkpoint_moves_by_itself(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """In one short statement; what stands against it is told as it is of any append."""
    called: list[str] = []

    async def init(connection: Any) -> None:
        connection.add_query_logger(lambda done: called.append(done.query))

    short, url = timedelta(seconds=2), evsrc_postgres_database
    connect = {"init": init}
    async with await postgresql_store(
        url, CODEC, timeout=short, connect=connect
    ) as store:
        save = store.checkpoints.save
        await save(SaveCheckpoint("x", 1, after=0))
        called.clear()
        await save(SaveCheckpoint("x", 5, after=1))
        await until(lambda: bool(called))
        assert "evsrc_append(" not in "".join(called).replace('"', "")
        assert await store.checkpoints.load("x") == Checkpoint("x", 5)
        with pytest.raises(CheckpointError):
            await save(SaveCheckpoint("x", 6, after=1))
        await until(lambda: "evsrc_append(" in "".join(called).replace('"', ""))
        async with db.transaction():
            await store.within(db).append(also=[SaveCheckpoint("x", 7, after=5)])
            with pytest.raises(StoreBusyError, match="lock timeout"):
                await save(SaveCheckpoint("x", 8, after=5))
        with pytest.raises(CheckpointError):
            await save(SaveCheckpoint("x", 8, after=5))
        await save(SaveCheckpoint("x", 8, after=7))


@pytest.mark.parametrize("source", ["dsn", "pool", "sessions"])
async def test_what_was_given_up_is_called_off(
    evsrc_postgres_database: str,
    db: asyncpg.Connection[Any],
    engine: AsyncEngine,
    source: str,
) -> None:
    """A lock on a whole table: nothing goes on waiting, and nothing is written later."""
    url, short = evsrc_postgres_database, timedelta(seconds=0.3)
    async with AsyncExitStack() as opened:
        pool = await opened.enter_async_context(asyncpg.create_pool(url, min_size=1))
        sources = {"dsn": url, "pool": pool, "sessions": async_sessionmaker(engine)}
        store = await opened.enter_async_context(
            await postgresql_store(
                sources[source], CODEC, timeout=short, patience=short
            )
        )
        await store.checkpoints.save(SaveCheckpoint("x", 1, after=0))
        async with db.transaction():
            await db.execute("LOCK TABLE evsrc_checkpoint IN SHARE MODE")
            with pytest.raises(AppendOutcomeUnknownError):
                await store.checkpoints.save(SaveCheckpoint("x", 5, after=1))
            while await store_locks(url, WAITING):
                await asyncio.sleep(0)
        assert await store.checkpoints.load("x") == Checkpoint("x", 1)
        await store.checkpoints.save(SaveCheckpoint("x", 6, after=1))


WAITING = """SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock'"""


async def store_locks(url: str, question: str) -> int:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


# Plans.


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_reads_go_by_an_index(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any], mode: str
) -> None:
    """With either kind of plan no read of a stream or a page looks at the whole log."""
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        for n in range(20):
            await store.append(
                *(
                    write(*range(50), stream=StreamName(f"c{n % 3}", f"{n}-{m}"))
                    for m in range(20)
                )
            )
    await db.execute("ANALYZE")
    await db.execute(f"SET plan_cache_mode = {mode}")
    names = Names("public", "evsrc")
    questions: dict[str, tuple[Any, ...]] = {
        "payloads": ("c1", "1-1", 3),
        "stream_forward": ("c1", "1-1", 3, 2**62),
        "stream_backward": ("c1", "1-1", 9, 5),
        "log_page": (9000, 109_000, 100),
        "log_page_matching": (9000, 9500, 100, ["c1"], [], [], []),
        "find": (uuid4(),),
    }
    for name, arguments in questions.items():
        prepared = await db.prepare(names.sql(name))
        for _ in range(6):
            plan = await prepared.explain(*arguments)
        assert "evsrc_event" in str(plan)
        assert not scans_whole_log(plan), name


async def load(store: Store, n: int) -> None:
    assert await numbers(store, StreamName("c", str(n))) == [n]


async def read_stream(store: Store, n: int) -> None:
    (recorded,) = (await store.read_stream(StreamName("c", str(n)))).events
    assert recorded.event.n == n


async def read_all(store: Store, n: int) -> None:
    (recorded,) = (await store.read_all(after=n, limit=1)).events
    assert recorded.event.n == n


@pytest.mark.parametrize("read", [load, read_stream, read_all])
async def test_a_log_that_has_grown_is_read_by_an_index(
    evsrc_postgres_database: str,
    db: asyncpg.Connection[Any],
    read: Callable[[Store, int], Awaitable[None]],
) -> None:
    """What was best for a young log, a look at all of it, does not stay for ever."""
    url, name = evsrc_postgres_database, "early"
    early = {"server_settings": {"application_name": name}}

    def opened(n: int) -> Write[Any]:
        return write(n, stream=StreamName("c", str(n)), expected=0)

    async with await postgresql_store(url, CODEC, connect=early) as store:
        async with await postgresql_store(url, CODEC) as other:
            await other.append(*map(opened, range(20)))
            await db.execute("ANALYZE evsrc_event")
            for n in range(20):
                await read(store, n)
            await other.append(*map(opened, range(20, 2020)))
        for n in range(1000, 1100):
            await read(store, n)
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1"
    while not await db.fetchval(gone, name):  # it has told what it has done by then
        await asyncio.sleep(0)
    read_rows = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = $1"
    rows = await db.fetchval(read_rows, "evsrc_event")
    assert 0 < rows < 20 * 20 * 2 + 3 * 2020, "only while there were 20 events"


def scans_whole_log(plan: Any) -> bool:
    if isinstance(plan, list):
        return any(map(scans_whole_log, plan))
    if not isinstance(plan, dict):
        return False
    here = (
        plan.get("Node Type") == "Seq Scan" and plan["Relation Name"] == "evsrc_event"
    )
    return here or any(map(scans_whole_log, plan.values()))


@pytest.mark.soak  # more than a gigabyte
@pytest.mark.timeout(300)
async def test_a_page_that_is_too_large_comes_in_pieces(
    evsrc_postgres_database: str,
) -> None:
    """What the server cannot send as one page is read as several."""
    size = 360 * 2**20
    async with await postgresql_store(evsrc_postgres_database, CODEC) as store:
        for _ in range(3):
            note = NewEvent(Note("x" * size), uuid4())
            await store.append(Write(STREAM, [note], ANY))
        lengths: list[int] = []
        after, head = 0, 1
        while after < head:
            page = await store.read_all(after=after)
            lengths += [len(recorded.event.text) for recorded in page.events]
            after, head = page.reached, page.head
    assert lengths == [size] * 3


# Pages that are read ahead.


@pytest.fixture
async def asked(
    evsrc_postgres_database: str,
) -> AsyncIterator[tuple[asyncpg.Pool[Any], list[int]]]:
    """A pool, and after which position each page was asked for, once it has come."""
    asked: list[int] = []

    def note(query: Any) -> None:
        if "array_agg(data)" in query.query:
            asked.append(query.args[0])

    async def init(connection: Any) -> None:
        connection.add_query_logger(note)

    async with asyncpg.create_pool(
        evsrc_postgres_database, min_size=1, max_size=4, init=init
    ) as pool:
        yield pool, asked


async def walk(store: Store, pages: int, after: int = 0, query: Any = ALL) -> list[int]:
    """Read up to so many pages of ten; give the positions."""
    seen: list[int] = []
    for _ in range(pages):
        page = await store.read_all(query, after=after, limit=10)
        seen += [recorded.position for recorded in page.events]
        after = page.reached
        if after == page.head:
            break
    return seen


@pytest.mark.parametrize("ordering", ["serial", "concurrent"])
@pytest.mark.parametrize("query", [ALL, Query.of(types=["fact"])])
async def test_a_walk_has_its_next_page_read_ahead(
    asked: tuple[asyncpg.Pool[Any], list[int]], ordering: Ordering, query: Any
) -> None:
    """From its second page on; each page is asked for once, and nothing is missing."""
    pool, pages = asked
    async with await postgresql_store(pool, CODEC, ordering=ordering) as store:
        await store.append(write(*range(47)))
        first, *others = [n + 1 for n in range(47)]
        assert await walk(store, 2, query=query) == [first, *others[:19]]
        await until(lambda: 20 in pages)
        await store.append(write(*range(5)))
        assert await walk(store, 9, 20, query) == list(range(21, 53))
    assert pages == sorted(set(pages))
    assert len(pages) <= len({0, 10, 20, 30, 40, 50, 52})


@pytest.mark.parametrize("ordering", ["serial", "concurrent"])
async def test_the_end_of_the_log_is_not_read_ahead(
    asked: tuple[asyncpg.Pool[Any], list[int]], ordering: Ordering
) -> None:
    """Who has appended, and then reads up to the head, has read what he appended."""
    pool, pages = asked
    facts = Query.of(types=["fact"])
    async with await postgresql_store(pool, CODEC, ordering=ordering) as store:
        await store.append(write(*range(20)))
        notes = [NewEvent(Note("x"), uuid4()) for _ in range(15)]
        await store.append(Write(STREAM, notes, ANY))
        await store.append(write(*range(10)))
        assert await walk(store, 2, query=facts) == list(range(1, 21))
        await until(lambda: 20 in pages)  # the last ten are at hand
        await store.append(write(0))
        assert await walk(store, 9, 20, facts) == list(range(36, 47))


async def test_only_a_walk_reads_ahead(
    asked: tuple[asyncpg.Pool[Any], list[int]],
) -> None:
    """Lone pages, pages near the end and readers inside a transaction do not."""
    pool, pages = asked
    async with await postgresql_store(pool, CODEC) as store:
        await store.append(write(*range(38)))
        await walk(store, 1)
        await walk(store, 1, 20)
        await walk(store, 2, 20)
        async with store.transaction() as tx:
            await walk(cast("Store", tx), 2)
        assert await walk(store, 1) == list(range(1, 11))
    assert pages == [0, 20, 20, 30, 0, 10, 0]


@pytest.mark.parametrize("kept", [0, 60])
async def test_nothing_is_left_of_a_walk_that_ends(
    asked: tuple[asyncpg.Pool[Any], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    kept: float,
) -> None:
    """A page that nobody comes for is dropped, in time or when the store is closed."""
    monkeypatch.setattr("evsrc.stores.postgresql.ahead._KEPT", kept)
    others = asyncio.all_tasks()
    pool, _ = asked
    async with await postgresql_store(pool, CODEC) as store:
        await store.append(write(*range(100)))
        stores = asyncio.all_tasks()
        assert await walk(store, 9) == list(range(1, 91)), "a late page is read again"
        await walk(store, 2)
        if kept == 0:
            await no_more_than(stores)
    await no_more_than(others)  # the driver is still giving connections back
    assert pool.get_idle_size() == pool.get_size()


async def test_a_page_that_is_read_ahead_is_not_kept_for_long(
    asked: tuple[asyncpg.Pool[Any], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes late reads anew, as of now; the memory of the page is free by then."""
    monkeypatch.setattr("evsrc.stores.postgresql.ahead._KEPT", kept := 0.2)
    pool, pages = asked
    async with await postgresql_store(pool, CODEC) as store:
        await store.append(write(*range(100)))
        await walk(store, 2)
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(kept, over.set)
        await until(lambda: 20 in pages)
        await over.wait()
        await walk(store, 1, 20)
    assert pages.count(20) == 2


async def no_more_than(tasks: set[asyncio.Task[Any]]) -> None:
    async with asyncio.timeout(10):
        while not asyncio.all_tasks() <= tasks:
            await asyncio.sleep(0)


# A replica.


@pytest.fixture
def replicated() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A server, and another that follows it."""
    with start_postgres() as primary, start_postgres() as replica:
        replica.stop()
        shutil.rmtree(replica.data)
        replica._account.run(
            replica._folder,
            replica._programs / "pg_basebackup",
            *("--pgdata", str(replica.data), "--dbname", primary.url),
            *("--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        )
        replica._password = primary._password
        replica.start()
        yield primary, replica


async def test_history_is_read_from_a_replica(
    replicated: tuple[PostgresServer, PostgresServer],
) -> None:
    """Whole pages come from the replica; what it has not got, from the primary."""
    primary, replica = replicated
    async with await postgresql_store(primary.url, CODEC, replica=replica.url) as store:
        await store.append(write(*range(100)))
        copy = await asyncpg.connect(replica.url)
        async with asyncio.timeout(10):
            while await copy.fetchval("SELECT pg_last_wal_replay_lsn()") < await lsn(
                primary
            ):
                await asyncio.sleep(0)
        asked = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE query LIKE '%evsrc_event%' AND pid <> pg_backend_pid()"
        )
        assert await copy.fetchval(asked) == 0
        page = await store.read_all(limit=60)
        assert [r.event.n for r in page.events] == list(range(60))
        assert await copy.fetchval(asked) == 1, "the replica was asked"
        await copy.execute("SELECT pg_wal_replay_pause()")
        await store.append(write(100))
        assert await everything(store) == list(range(101)), "its end is not the log's"
        await copy.close()
        await asyncio.to_thread(replica.stop)
        assert await everything(store) == list(range(101)), "readers go on without it"


async def everything(store: Store) -> list[int]:
    seen: list[int] = []
    after, query = 0, Query.of(types=["fact"])
    while (page := await store.read_all(query, after=after, limit=60)).events:
        seen += [r.event.n for r in page.events]
        after = page.reached
    return seen


async def lsn(primary: PostgresServer) -> str:
    connection = await asyncpg.connect(primary.url)
    try:
        return await connection.fetchval("SELECT pg_current_wal_lsn()")
    finally:
        await connection.close()


# For class-based users; the rest is in the tests of each class.


async def test_checkpoints_and_failures_join_a_connection(
    engine: AsyncEngine,
) -> None:
    """On a connection they are part of its transaction, also the making of the table."""
    failed = (uuid4(), "p", "Paid", {"amount": 1}, ValueError("no"))
    for commit in (False, True):
        async with engine.connect() as connection:
            checkpoints = PostgreSQLCheckpointRepository(connection)
            letters = PostgreSQLDLQRepository(connection)
            await checkpoints.save_position("reader", 7, uuid4(), "Paid")
            await letters.add_failed_event(*failed)
            assert await checkpoints.get_position("reader") == 7
            await (connection.commit() if commit else connection.rollback())
            if not commit:  # with it went the table, which is made once more
                assert await checkpoints.get_position("reader") is None
                await connection.rollback()
        kept = await PostgreSQLCheckpointRepository(engine).get_position("reader")
        assert kept == (7 if commit else None)
        found = await PostgreSQLDLQRepository(engine).get_failed_events()
        assert len(found) == int(commit)


async def test_the_facade_store_joins_a_session(engine: AsyncEngine) -> None:
    """`within` gives the class-based store inside the caller's transaction."""
    sessions = async_sessionmaker(engine)
    store = PostgreSQLEventStore(sessions, REGISTRY, schema="shop", prefix="a")
    first, second = opened(), opened()
    async with sessions() as session, session.begin():
        await (await store.within(session)).append_events(
            first.aggregate_id, "Account", [first], 0
        )
    async with sessions() as session:
        inside = await store.within(session)
        await inside.append_events(second.aggregate_id, "Account", [second], 0)
        assert await inside.event_exists(second.event_id)
        await session.rollback()
    assert await store.event_exists(first.event_id)
    assert not await store.event_exists(second.event_id)
    await store.close()
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT count(*) FROM shop.a_events"))
        assert found.scalar() == 1


async def test_the_options_of_the_facade_store(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """Ordering, what may be lost and patience are those of the store below."""
    url = evsrc_postgres_database
    async with PostgreSQLEventStore(url, REGISTRY, ordering="concurrent"):
        assert await db.fetchval("SELECT ordering FROM evsrc_log") == "concurrent"
    lossy, event = f"{url}?synchronous_commit=off", opened()
    with pytest.raises(StoreUnavailableError, match="accept_loss"):
        await PostgreSQLEventStore(lossy, REGISTRY, prefix="l").initialize()
    taken = PostgreSQLEventStore(lossy, REGISTRY, prefix="l", accept_loss=True)
    async with taken as store:
        await store.append_events(event.aggregate_id, "Account", [event], 0)
        assert await store.event_exists(event.event_id)
    away = "postgresql://somebody@127.0.0.1:1/nowhere"
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        async with asyncio.timeout(5):
            await PostgreSQLEventStore(away, patience=timedelta(0)).initialize()


@pytest.mark.parametrize("ordering", ["serial", "concurrent"])
async def test_a_refused_append_is_not_noticed(
    ordering: Ordering, evsrc_postgres_database: str
) -> None:
    """Others are told of what was written, and of nothing else."""
    told: asyncio.Queue[str] = asyncio.Queue()
    db = await asyncpg.connect(evsrc_postgres_database)
    stream, query = StreamName("s", "1"), Query.of(tags=["x"])
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, ordering=ordering
    ) as store:
        channel = f"evsrc_{crc32(b'public.evsrc'):08x}"
        await db.add_listener(channel, lambda *found: told.put_nowait(found[2]))

        async def put(expected: Expected) -> Any:
            new = [NewEvent(Tagged(1, ("x",)), uuid4())]
            return await store.append(Write(stream, new, expected))

        assert isinstance(await put(NO_STREAM), Appended)
        await asyncio.wait_for(told.get(), 5)
        for refused in (NO_STREAM, AppendCondition(query)):
            assert isinstance(await put(refused), Conflict)
        await store.changed(await store.head(), timeout=timedelta(seconds=0.3))
        assert told.empty(), "a notice comes within milliseconds"
        assert isinstance(await put(1), Appended)
        await asyncio.wait_for(told.get(), 5)
    await db.close()


# Transactions that append plainly and under a condition.


FACTS = Query.of(types=["fact"])
UNMET = AppendCondition(Query.of(types=["note"]))  # there are no notes


@pytest.mark.parametrize("whose", ["store", "caller"])
async def test_two_that_append_plainly_then_under_a_condition_do_not_hang(
    evsrc_postgres_database: str, whose: str
) -> None:
    """Each waits for the other to end: one is refused, wholly; the other commits."""
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, ordering="concurrent"
    ) as store:
        met = asyncio.Barrier(2)

        async def both(n: int) -> Any:
            async with begun(store, evsrc_postgres_database, whose) as append:
                await append(write(n, stream=StreamName("plain", str(n))))
                await met.wait()
                checked = write(n, stream=StreamName("checked", str(n)), expected=UNMET)
                return await append(checked)

        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(both(1), both(2), return_exceptions=True)
        refused = [o for o in outcomes if isinstance(o, StoreBusyError)]
        assert len(refused) == 1, outcomes
        assert "deadlock" in str(refused[0])
        (winner,) = [n for n, o in enumerate(outcomes, 1) if isinstance(o, Appended)]
        page = await store.read_all()
        assert [(r.stream.category, r.event.n) for r in page.events] == [
            ("plain", winner),
            ("checked", winner),
        ]
        assert page.head == await store.head()
        assert await store.verify() == ()


async def test_two_that_append_under_a_condition_first_wait_for_each_other(
    evsrc_postgres_database: str,
) -> None:
    """In that order nobody is refused: the second begins when the first has ended."""
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, ordering="concurrent"
    ) as store:

        async def both(n: int) -> Any:
            async with store.transaction() as tx:
                checked = write(n, stream=StreamName("checked", str(n)), expected=UNMET)
                first = await tx.append(checked)
                await tx.append(write(n, stream=StreamName("plain", str(n))))
                return first

        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*map(both, range(20)))
        assert all(isinstance(outcome, Appended) for outcome in outcomes)
        assert len((await store.read_all(FACTS)).events) == 40


@asynccontextmanager
async def begun(store: Any, dsn: str, whose: str) -> AsyncIterator[Any]:
    """Open a transaction of the store's, or one that the caller began by himself."""
    if whose == "store":
        async with store.transaction() as tx:
            yield tx.append
        return
    db = await asyncpg.connect(dsn)
    try:
        async with db.transaction():
            yield store.within(db).append
    finally:
        await db.close()


async def test_what_was_held_back_is_delivered_without_another_append(
    evsrc_postgres_database: str, db: asyncpg.Connection[Any]
) -> None:
    """An open append holds a live reader back; its commit, of which nobody is told, frees it."""
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, ordering="concurrent"
    ) as store:
        seen: list[int] = []

        async def handle(recorded: Any) -> None:
            seen.append(recorded.event.n)

        async with subscribe(store, "live", handle) as subscription:
            transaction = db.transaction()
            await transaction.start()
            await store.within(db).append(write(1, stream=StreamName("open", "1")))
            await store.append(write(2, stream=StreamName("free", "1")))
            await subscription.caught_up()
            assert seen == []
            await transaction.commit()
            await until(lambda: len(seen) == 2)
        assert seen == [1, 2]
