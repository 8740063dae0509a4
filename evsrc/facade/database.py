"""Read models in a database, written in one transaction with their position."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from ..core.errors import (
    AppendOutcomeUnknownError,
    CheckpointError,
    StoreUnavailableError,
    SubscriptionConfigError,
)
from ..core.event import Recorded
from ..ports import (
    Also,
    Appended,
    Checkpoint,
    Checkpoints,
    SaveCheckpoint,
    Transaction,
)
from ..ports import EventStore as Record
from .checkpoints import CREATE, SQLCheckpointRepository
from .dlq import DLQRepository
from .events import DomainEvent
from .postgresql import PostgreSQLCheckpointRepository
from .projections import DeclarativeProjection
from .retrying import RetryPolicy
from .stores import EventStore
from .tables import Rows


class DatabaseProjection(DeclarativeProjection):
    """A read model in tables of yours: each event changes it exactly once.

    Handlers take `(self, conn, event)`, or `(self, event)`. What they write on `conn`
    is there if and only if the position has passed the event: a manager runs several
    events in one transaction, and one that fails alone. Run it with the default
    `checkpoint_strategy`.

    Args:
        session_factory: SQLAlchemy's `async_sessionmaker`, over PostgreSQL (asyncpg) or
            SQLite (aiosqlite); `conn` is then its `AsyncConnection`, and the position
            is kept there, in the table of the checkpoint repositories. Or the event
            store itself, for tables beside the events; `conn` is then what its
            transactions work on (see `Transaction.connection`).
        dlq_repo: where events go that cannot be handled; by default the manager's.
        retry_policy: when a failed event is tried again; by default as the
            subscription's configuration says.
    """

    def __init__(
        self,
        session_factory: Callable[[], Any] | EventStore,
        dlq_repo: DLQRepository | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        super().__init__(None, dlq_repo, retry_policy)
        self.session_factory = session_factory

    async def handle(self, event: DomainEvent) -> None:
        """Handle one event in a transaction of its own; no position is kept."""
        source = self.session_factory
        if isinstance(source, EventStore):
            async with (await source.core()).transaction() as tx:
                await self.handle_in(tx.connection, [event])
        else:
            async with source() as session, session.begin():
                await self.handle_in(await session.connection(), [event])

    async def handle_in(self, connection: Any, events: Sequence[DomainEvent]) -> None:
        """Handle events in a transaction that somebody else has begun, and ends."""
        for event in events:
            await self._dispatch(connection, event)

    async def get_checkpoint(self) -> str | None:
        """Give the id of the last handled event, from the session's database."""
        source = self.session_factory
        if isinstance(source, EventStore):
            return None
        async with source() as session, session.begin():
            kept = _repository(await session.connection())
            found = await kept.get_checkpoint(self.projection_name)
        return None if found is None else str(found)

    async def reset(self) -> None:
        """Forget the position that is kept under the class's name; empty the tables."""
        source, name = self.session_factory, self.projection_name
        if isinstance(source, EventStore):
            await (await source.core()).checkpoints.delete(name)
        else:
            async with source() as session, session.begin():
                kept = _repository(await session.connection())
                await kept.reset_checkpoint(name)
        await self._truncate_read_models()


def record_of(
    projection: DatabaseProjection,
    store: EventStore,
    record: Record[DomainEvent],
    last: Callable[[], Recorded[DomainEvent] | None],
) -> Record[DomainEvent]:
    """Give the manager's *store*, its transactions being those of the read model.

    *last* gives the event that was dealt with last.

    Raises:
        SubscriptionConfigError: the read model is in another event store.
    """
    source = projection.session_factory
    if not isinstance(source, EventStore):
        return _in_sessions(record, source, last)
    if source is not store:
        raise SubscriptionConfigError(
            "a projection beside the events is run by a manager of that event store"
        )
    return record


def _in_sessions(
    record: Record[DomainEvent],
    sessions: Callable[[], Any],
    last: Callable[[], Recorded[DomainEvent] | None],
) -> Record[DomainEvent]:
    @asynccontextmanager
    async def transaction() -> AsyncGenerator[Transaction[DomainEvent]]:
        async with _session(sessions) as connection:

            async def append(*_: Any, also: Sequence[Also] = ()) -> Appended:
                for change in also:
                    if isinstance(change, SaveCheckpoint):
                        await _move(connection, change, last())
                return Appended(())

            yield Transaction(
                append, record.read_all, load, record.snapshots.load, connection
            )

    async def load(name: str) -> Checkpoint | None:
        async with _session(sessions) as connection:
            position = await _repository(connection).get_position(name)
        return None if position is None else Checkpoint(name, position)

    async def save(change: SaveCheckpoint) -> None:
        async with _session(sessions) as connection:
            await _move(connection, change, last())

    async def delete(name: str) -> None:
        async with _session(sessions) as connection:
            await _repository(connection).reset_checkpoint(name)

    return replace(
        record, transaction=transaction, checkpoints=Checkpoints(load, save, delete)
    )


@asynccontextmanager
async def _session(sessions: Callable[[], Any]) -> AsyncGenerator[Any]:
    """Open a transaction; tell by the core's errors when its database is away."""
    try:
        async with sessions() as session, session.begin():
            yield await session.connection()
    except Exception as error:
        if getattr(error, "connection_invalidated", False):
            raise AppendOutcomeUnknownError("the read model's database") from error
        if isinstance(error, OSError):
            raise StoreUnavailableError(
                "the read model's database is not there"
            ) from error
        raise


async def _move(
    connection: Any, change: SaveCheckpoint, last: Recorded[DomainEvent] | None
) -> None:
    kept = _repository(connection)
    if not await kept.move_position(
        change.name,
        change.position,
        change.after,
        None if last is None else last.event.event_id,
        None if last is None else last.event.event_type,
    ):
        actual = await kept.get_position(change.name)
        raise CheckpointError(change.name, change.after or 0, actual or 0)


def _repository(connection: Any) -> SQLCheckpointRepository:
    dialect = connection.dialect.name
    if dialect == "postgresql":
        return PostgreSQLCheckpointRepository(connection)
    if dialect != "sqlite":
        raise SubscriptionConfigError(
            f"positions are kept in PostgreSQL or SQLite, not in {dialect}"
        )

    async def execute(statement: str, values: Mapping[str, object]) -> Rows:
        await connection.exec_driver_sql(CREATE)
        done = await connection.exec_driver_sql(statement, dict(values))
        rows = [tuple(row) for row in done] if done.returns_rows else []
        return Rows(rows, done.rowcount)

    return SQLCheckpointRepository(execute)
