"""Projections that the tests run: one sum a stream, kept as a View and in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from evsrc import (
    ANY,
    HandlerProjection,
    NewEvent,
    ProjectionTransaction,
    Query,
    SQLiteConnection,
    StreamName,
    Transaction,
    View,
    ViewProjection,
    Write,
    json_snapshots,
)
from evsrc.core.event import Recorded
from evsrc.ports import EventStore
from evsrc.testing import Fact, Note

Store = EventStore[Any]
Sums = dict[str, int]
FACTS = Query.of(types=["fact"])


def write(stream: str, *numbers: int) -> Write[Any]:
    events = [NewEvent(Fact(n), uuid4()) for n in numbers]
    return Write(StreamName("sum", stream), events, ANY)


def note(text: str) -> Write[Any]:
    return Write(StreamName("sum", "x"), [NewEvent(Note(text), uuid4())], ANY)


def add(sums: Sums, recorded: Recorded[Any]) -> Sums:
    stream, n = recorded.stream.id, recorded.event.n
    return {**sums, stream: sums.get(stream, 0) + n}


def sums_view(name: str = "sums@1", schema: int = 1) -> ViewProjection[Sums, Any]:
    keep = json_snapshots(dict[str, int], schema=schema)
    return ViewProjection(name=name, view=View({}, add), keep=keep, query=FACTS)


def sums_table(
    name: str = "sums@1", table: str = "sums", log: list[bool] | None = None
) -> HandlerProjection[Any]:
    """Keep sums in *table*, with a row for each event; a twice handled one is refused.

    A version whose table has another name takes the place of "sums" at the swap. *log*
    is told of each batch whether it is being rebuilt.
    """

    async def setup(tx: Transaction[Any]) -> None:
        await tx.connection.execute(
            f"CREATE TABLE {table} (position bigint PRIMARY KEY, stream text, n bigint)"
        )

    async def drop(tx: Transaction[Any]) -> None:
        await tx.connection.execute(f"DROP TABLE {table}")

    async def lock(tx: Transaction[Any]) -> None:
        if not isinstance(tx.connection, SQLiteConnection):
            await tx.connection.execute("LOCK TABLE sums IN ACCESS EXCLUSIVE MODE")

    async def swap(tx: Transaction[Any]) -> None:
        await tx.connection.execute("DROP TABLE IF EXISTS sums")
        await tx.connection.execute(f"ALTER TABLE {table} RENAME TO sums")

    async def handle(
        tx: ProjectionTransaction[Any], events: Sequence[Recorded[Any]]
    ) -> None:
        if log is not None:
            log.append(tx.rebuilding)
        rows = [(r.position, r.stream.id, r.event.n) for r in events]
        marks = (
            "?, ?, ?" if isinstance(tx.connection, SQLiteConnection) else "$1, $2, $3"
        )
        statement = f"INSERT INTO {table} VALUES ({marks})"
        await tx.connection.executemany(statement, rows)

    return HandlerProjection(
        name=name,
        handle=handle,
        query=FACTS,
        setup=setup,
        drop=drop,
        lock=lock,
        swap=swap,
    )


async def fetch(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    """Run a query on a connection of either kind."""
    if isinstance(connection, SQLiteConnection):
        return await connection.fetchall(statement)
    return [tuple(row) for row in await connection.fetch(statement)]


async def sums_in(store: Store, table: str = "sums") -> Sums:
    """Read the table, in a transaction of its own."""
    async with store.transaction() as tx:
        statement = f"SELECT stream, sum(n) FROM {table} GROUP BY stream"
        return {stream: int(n) for stream, n in await fetch(tx.connection, statement)}


async def tables_of(store: Store) -> set[str]:
    """Give the names of the tables of the projections that there are."""
    async with store.transaction() as tx:
        if isinstance(tx.connection, SQLiteConnection):
            names = "SELECT name FROM sqlite_master WHERE name LIKE 'sums%'"
        else:
            names = (
                "SELECT c.relname FROM pg_class AS c WHERE c.relkind = 'r'"
                " AND c.relname LIKE 'sums%' AND pg_table_is_visible(c.oid)"
            )
        return {name for (name,) in await fetch(tx.connection, names)}


async def folded(store: Store) -> Sums:
    """Fold the whole log anew."""
    sums: Sums = {}
    after = 0
    while True:
        page = await store.read_all(FACTS, after=after)
        for recorded in page.events:
            sums = add(sums, recorded)
        if page.reached >= page.head:
            return sums
        after = page.reached
