"""PostgreSQL for class-based users: events, checkpoints and failed events.

Connections come from SQLAlchemy over asyncpg, as in the guide, or (for the event store)
from a DSN or an asyncpg pool. SQLAlchemy is the caller's: nothing here imports it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from copy import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from .checkpoints import CREATE as _CHECKPOINTS
from .checkpoints import SQLCheckpointRepository
from .codec import domain_codec
from .dlq import CREATE as _LETTERS
from .dlq import SQLDLQRepository
from .events import DomainEvent, EventRegistry
from .snapshots import CREATE as _SNAPSHOTS
from .snapshots import SQLSnapshotStore
from .stores import EventStore
from .tables import Execute, Rows

if TYPE_CHECKING:
    from ..stores.postgresql.store import PostgreSQLStore, Source

_NAMED: Final = re.compile(r"(?<![:\w]):([a-z_]+)")
_IDENTITY: Final = (
    "INTEGER PRIMARY KEY AUTOINCREMENT",
    "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",  # needs no rights of its own
)
_MAKING: Final = 7703  # the class of the advisory lock that making a table takes


class PostgreSQLEventStore(EventStore):
    """Events in a PostgreSQL database; its tables are made at the first use.

    Args:
        session_factory: SQLAlchemy's `async_sessionmaker` over postgresql+asyncpg, or
            an asyncpg pool (the store closes neither), or a DSN.
        event_registry: names the events; by default the one of `register_event`.
        schema: where the tables are; created if it is missing.
        prefix: what their names begin with.
        ordering: "serial": positions are dense and in the order of commits.
            "concurrent": appends of several processes commit at the same time,
            positions have holes. Settled when the store is created.
        accept_loss: work also on a server that may lose acknowledged appends when it
            crashes (synchronous_commit or fsync is off).
        patience: how long to try again when the server cannot be reached.
    """

    def __init__(
        self,
        session_factory: Source,
        event_registry: EventRegistry | None = None,
        *,
        schema: str = "public",
        prefix: str = "evsrc",
        ordering: Literal["serial", "concurrent"] = "serial",
        accept_loss: bool = False,
        patience: timedelta = timedelta(seconds=10),
    ) -> None:
        super().__init__(event_registry)
        self.session_factory = session_factory
        self._options: dict[str, Any] = {
            "schema": schema,
            "prefix": prefix,
            "ordering": ordering,
            "accept_loss": accept_loss,
            "patience": patience,
        }

    async def _open(self) -> PostgreSQLStore[DomainEvent]:
        from ..stores.postgresql import postgresql_store  # noqa: PLC0415 - the driver

        codec = domain_codec(self.event_registry)
        return await postgresql_store(self.session_factory, codec, **self._options)

    async def within(self, transaction: Any) -> EventStore:
        """Give the store inside a transaction that the caller has begun.

        What it appends is there when the caller commits, and gone if he rolls back. The
        transaction is that of a SQLAlchemy session or connection on asyncpg, or of an
        asyncpg connection.
        """
        record: Any = await self.core()
        inside = copy(self)
        inside._record = record.within(transaction)  # noqa: SLF001 - of our own class
        return inside


class PostgreSQLCheckpointRepository(SQLCheckpointRepository):
    """Checkpoints in a table of a PostgreSQL database.

    Args:
        conn: SQLAlchemy's `AsyncConnection` over asyncpg: what is written is part of
            the caller's transaction; or `AsyncEngine`: each call is committed at once.
    """

    def __init__(self, conn: Any) -> None:
        super().__init__(_on_sqlalchemy(conn, _CHECKPOINTS))


class PostgreSQLDLQRepository(SQLDLQRepository):
    """Failed events in a table of a PostgreSQL database.

    Args:
        conn: SQLAlchemy's `AsyncConnection` over asyncpg: what is written is part of
            the caller's transaction; or `AsyncEngine`: each call is committed at once.
    """

    def __init__(self, conn: Any) -> None:
        super().__init__(_on_sqlalchemy(conn, _LETTERS))


class PostgreSQLSnapshotStore(SQLSnapshotStore):
    """Snapshots in a table of a PostgreSQL database; each call is committed at once.

    Args:
        session_factory: SQLAlchemy's `async_sessionmaker` over postgresql+asyncpg.
    """

    def __init__(self, session_factory: Callable[[], Any]) -> None:
        @asynccontextmanager
        async def begin() -> AsyncGenerator[Any]:
            async with session_factory() as session, session.begin():
                yield await session.connection()

        self.session_factory = session_factory
        self._execute = _executing(begin, _SNAPSHOTS, commits=True)


def _on_sqlalchemy(conn: Any, create: str) -> Execute:
    if not hasattr(conn, "exec_driver_sql"):
        return _executing(conn.begin, create, commits=True)
    return _executing(lambda: nullcontext(conn), create, commits=False)


def _executing(begin: Callable[[], Any], create: str, *, commits: bool) -> Execute:
    table, made = create.split()[5], False

    async def execute(statement: str, values: Mapping[str, object]) -> Rows:
        nonlocal made
        async with begin() as connection:
            if not made:  # where the caller commits, he may also take it back
                await _make(connection, table, create)
            names = dict.fromkeys(_NAMED.findall(statement))
            numbers = {name: f"${n}" for n, name in enumerate(names, 1)}
            done = await connection.exec_driver_sql(
                _NAMED.sub(lambda found: numbers[found[1]], statement),
                tuple(values[name] for name in names),
            )
            rows = [tuple(row) for row in done] if done.returns_rows else []
        made = commits
        return Rows(rows, done.rowcount)

    return execute


async def _make(connection: Any, table: str, create: str) -> None:
    """Make a table, if need be, while no other process does."""
    there = "SELECT to_regclass($1) IS NOT NULL"
    if not (await connection.exec_driver_sql(there, (table,))).scalar():
        lock = "SELECT pg_advisory_xact_lock($1, hashtext($2))"
        await connection.exec_driver_sql(lock, (_MAKING, table))
        await connection.exec_driver_sql(create.replace(*_IDENTITY))
