"""Read models in a database: each event changes them exactly once, whatever happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from evsrc import (
    CheckpointError,
    DatabaseProjection,
    EventStore,
    InMemoryCheckpointRepository,
    InMemoryDLQRepository,
    InMemoryEventBus,
    LeaseLostError,
    PostgreSQLEventStore,
    SQLiteEventStore,
    SubscriptionError,
    SubscriptionStateError,
    handles,
)
from evsrc.facade.database import _repository
from evsrc.subscriptions import SubscriptionConfig, SubscriptionManager
from tests.facade_domain import REGISTRY, Opened, Paid, opened, paid
from tests.guarantees.test_poison import until
from tests.test_facade_delivery import QUICK

COUNT = 60


class World:
    """An event store, and where read models are: in sessions, or beside the events."""

    def __init__(self, kind: str, store: EventStore, sessions: Any) -> None:
        self.kind = kind
        self.store = store
        self.sessions = sessions
        self.source = store if kind.startswith("beside") else sessions

    def manager(self, **options: Any) -> SubscriptionManager:
        return SubscriptionManager(
            self.store, InMemoryEventBus(), InMemoryCheckpointRepository(), **options
        )

    async def fill(self, count: int = COUNT) -> None:
        id = uuid4()
        events = [opened(id), *(paid(id, n) for n in range(1, count))]
        await self.store.append_events(id, "Account", events, 0)

    async def rows(self) -> list[int]:
        """Give what the read model has, as another connection sees it."""
        statement = "SELECT n FROM payments ORDER BY n"
        if self.source is self.store:
            async with (await self.store.core()).transaction() as tx:
                sqlite = self.kind == "beside sqlite"
                read = tx.connection.fetchall if sqlite else tx.connection.fetch
                return [n for (n,) in await read(statement)]
        async with self.sessions() as session:
            return [n for (n,) in await session.execute(text(statement))]


KINDS = ["sessions sqlite", "sessions postgresql", "beside sqlite", "beside postgresql"]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as closing:
        if request.param.endswith("sqlite"):
            engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/model.db")
            path = str(tmp_path / "events.db")
            store: EventStore = SQLiteEventStore(path, REGISTRY)
        else:
            url = request.getfixturevalue("evsrc_postgres_database")
            engine = create_async_engine(url.replace("://", "+asyncpg://", 1))
            store = PostgreSQLEventStore(async_sessionmaker(engine), REGISTRY)
        closing.push_async_callback(engine.dispose)
        closing.push_async_callback(store.close)
        made = World(request.param, store, async_sessionmaker(engine))
        create = "CREATE TABLE payments (n int NOT NULL)"  # nothing forbids doubles
        if made.source is store:
            async with (await store.core()).transaction() as tx:
                await tx.connection.execute(create)
        else:
            async with made.sessions() as session, session.begin():
                await session.execute(text(create))
        yield made


class Payments(DatabaseProjection):
    """Writes a row for each payment, and fails after that as often as it is told."""

    def __init__(self, world: World, fail: dict[int, int] | None = None) -> None:
        super().__init__(world.source)
        self.kind = world.kind
        self.fail = Counter(fail or {})
        self.calls = 0
        self.hang_at = 0

    @handles(Opened)
    async def _opened(self, event: Opened) -> None:
        """Nothing to write; the position moves all the same."""

    @handles(Paid)
    async def _paid(self, conn: Any, event: Paid) -> None:
        self.calls += 1
        if self.kind.startswith("sessions"):
            statement = text("INSERT INTO payments VALUES (:n)")
            await conn.execute(statement, {"n": event.amount})
        elif self.kind == "beside sqlite":
            await conn.execute("INSERT INTO payments VALUES (?)", [event.amount])
        else:
            await conn.execute("INSERT INTO payments VALUES ($1)", event.amount)
        if event.amount == self.hang_at:
            await asyncio.Event().wait()
        if self.fail[event.amount]:
            self.fail[event.amount] -= 1
            raise ValueError("not now")

    async def _truncate_read_models(self) -> None:
        self.calls = 0


async def run(
    manager: SubscriptionManager, projection: Payments, **options: Any
) -> None:
    config = SubscriptionConfig(**{"batch_size": 10, **QUICK, **options})
    subscription = await manager.subscribe(projection, config, "payments")
    async with manager:
        await subscription.caught_up()


async def test_failures_double_nothing(world: World) -> None:
    """Attempts that wrote and then failed leave no row; the others leave one each."""
    await world.fill()
    projection = Payments(world, {3: 2, 17: 1, 18: 3, 59: 1})
    await run(world.manager(), projection, max_retries=9)
    assert projection.calls > COUNT
    assert await world.rows() == list(range(1, COUNT))


async def test_it_goes_on_where_its_rows_end(world: World) -> None:
    """The position is with the rows: no checkpoint repository is asked, or can differ."""
    await world.fill(20)
    await run(world.manager(), Payments(world))
    await world.fill(30)
    second = Payments(world)
    await run(world.manager(), second)
    assert second.calls == 29
    assert await world.rows() == sorted([*range(1, 20), *range(1, 30)])


async def test_a_stop_in_the_middle_is_taken_back(world: World) -> None:
    """A handler that is cancelled after it wrote leaves nothing of its transaction."""
    await world.fill(30)
    first = Payments(world)
    first.hang_at = 25
    manager = world.manager(shutdown_timeout=0.3)
    config = SubscriptionConfig(batch_size=10, **QUICK)
    subscription = await manager.subscribe(first, config, "payments")
    starting = asyncio.create_task(manager.start())
    await until(lambda: first.calls == 25)
    await manager.stop()
    await starting
    assert subscription.last_processed_position == 20
    assert await world.rows() == list(range(1, 20))
    await run(world.manager(), Payments(world))
    assert await world.rows() == list(range(1, 30))


async def test_of_two_workers_one_writes(world: World) -> None:
    """Whoever commits second from one position is stopped, and has written nothing."""
    await world.fill()
    managers, projections = [world.manager() for _ in range(2)], []
    subscriptions = []
    for manager in managers:
        projections.append(Payments(world))
        config = SubscriptionConfig(batch_size=5, **QUICK)
        subscriptions.append(
            await manager.subscribe(projections[-1], config, "payments")
        )
    await asyncio.gather(*(manager.start() for manager in managers))
    ends = await asyncio.gather(
        *(s.caught_up() for s in subscriptions), return_exceptions=True
    )
    assert await world.rows() == list(range(1, COUNT))
    for end in ends:
        assert end is None or isinstance(end, SubscriptionError)
        if end is not None:
            assert isinstance(end.__cause__, CheckpointError)
    for manager in managers:
        await manager.stop()


class LostError(Exception):
    """What SQLAlchemy raises when a connection breaks."""

    connection_invalidated = True


@pytest.mark.parametrize("world", KINDS[:2], indirect=True)
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "lost"])
async def test_a_commit_without_an_answer_is_looked_up(
    world: World, committed: bool
) -> None:
    """Whether the rows are there or not, each event has exactly one in the end."""
    await world.fill(30)
    left, sessions = 2, world.sessions

    @asynccontextmanager
    async def unsure() -> AsyncIterator[Any]:
        nonlocal left
        async with sessions() as session:

            @asynccontextmanager
            async def begin() -> AsyncIterator[None]:
                nonlocal left
                async with session.begin():
                    yield
                    left -= first.calls > 0
                    if left == 0 and not committed:
                        raise LostError
                if left == 0:
                    left -= 1
                    raise LostError

            yield SimpleNamespace(begin=begin, connection=session.connection)

    world.source = unsure
    first = Payments(world)
    await run(world.manager(), first)
    assert left < 0, "it was lost, and went on"
    assert await world.rows() == list(range(1, 30))


@pytest.mark.parametrize("world", KINDS[:2], indirect=True)
async def test_a_database_that_is_away_is_waited_for(world: World) -> None:
    """It is no failure of the events: no retry is used up, nothing stops."""
    await world.fill(30)
    refused, sessions = 0, world.sessions

    def away() -> Any:
        nonlocal refused
        refused += 1
        if 1 < refused < 5:
            raise ConnectionRefusedError
        return sessions()

    world.source = away
    await run(world.manager(), Payments(world), max_retries=0)
    assert refused > 5
    assert await world.rows() == list(range(1, 30))


async def test_poison_is_put_aside_and_driven_again(world: World) -> None:
    """The rows of the others are there; its own when it was handled after all."""
    await world.fill(30)
    dlq, projection = InMemoryDLQRepository(), Payments(world, {13: 99})
    manager = world.manager(dlq_repo=dlq)
    config = SubscriptionConfig(batch_size=10, max_retries=1, **QUICK)
    subscription = await manager.subscribe(projection, config, "payments")
    async with manager:
        await subscription.caught_up()
        (entry,) = await dlq.get_failed_events("payments")
        assert await world.rows() == [*range(1, 13), *range(14, 30)]
        projection.fail.clear()
        assert await manager.redrive(entry.id)
        assert await world.rows() == list(range(1, 30))
    assert subscription.events_processed == 29


class Forgetful(InMemoryDLQRepository):
    """Dies when it is told that an entry is resolved, as often as it is told to."""

    deaths = 1

    async def mark_resolved(self, dlq_id: int, resolved_by: Any) -> bool:
        if self.deaths:
            self.deaths -= 1
            raise asyncio.CancelledError
        return await super().mark_resolved(dlq_id, resolved_by)


async def test_a_redrive_that_died_after_its_commit_is_not_done_twice(
    world: World,
) -> None:
    """The rows are there and the entry says "retrying": the same call resolves it."""
    await world.fill(5)
    dlq, projection = Forgetful(), Payments(world, {3: 99})
    manager = world.manager(dlq_repo=dlq)
    config = SubscriptionConfig(max_retries=0, **QUICK)
    subscription = await manager.subscribe(projection, config, "payments")
    async with manager:
        await subscription.caught_up()
        (entry,) = await dlq.get_failed_events("payments")
        assert not await manager.redrive(entry.id)
        assert await world.rows() == [1, 2, 4]
        projection.fail.clear()
        with pytest.raises(asyncio.CancelledError):
            await manager.redrive(entry.id)
        assert await world.rows() == [1, 2, 3, 4]
        (left,) = await dlq.get_failed_events("payments", "retrying")
        assert await manager.redrive(left.id)
    assert await world.rows() == [1, 2, 3, 4]
    (done,) = await dlq.get_failed_events("payments", "resolved")
    assert done.id == entry.id
    if world.source is world.sessions:
        async with world.sessions() as session:
            kept = _repository(await session.connection())
            names = [data.projection_name for data in await kept.get_all_checkpoints()]
        assert names == ["payments"]


async def test_an_event_that_fails_again_after_it_was_resolved_is_handled_again(
    world: World,
) -> None:
    """What was noted of an earlier failure says nothing about a later one."""
    await world.fill(5)
    dlq, projection = InMemoryDLQRepository(), Payments(world)
    for start in ("checkpoint", "beginning"):
        manager = world.manager(dlq_repo=dlq)
        projection.fail[3] = 99
        await run(manager, projection, max_retries=0, start_from=start)
        (entry,) = await dlq.get_failed_events("payments")
        projection.fail.clear()
        assert await manager.redrive(entry.id)
    assert await world.rows() == sorted([1, 2, 3, 4] * 2)


@pytest.mark.parametrize(
    "world", [kind for kind in KINDS if kind != "beside sqlite"], indirect=True
)
async def test_who_was_taken_for_dead_writes_no_rows(world: World) -> None:
    """It stood still in its handler until others had done the work: its own is undone.

    Beside the events of SQLite nobody can take a lease while a transaction is open.
    """
    await world.fill(5)
    dlq, projection = InMemoryDLQRepository(), Payments(world, {3: 99})
    config = SubscriptionConfig(max_retries=0, **QUICK)
    manager = world.manager(dlq_repo=dlq)
    await run(manager, projection, max_retries=0)
    (entry,) = await dlq.get_failed_events("payments")
    projection.fail.clear()
    slow, other = Payments(world), world.manager(dlq_repo=dlq)
    inside, gate = asyncio.Event(), asyncio.Event()
    dispatch = slow.handle_in

    async def stand_still(connection: Any, events: Any) -> None:
        inside.set()
        await gate.wait()
        await dispatch(connection, events)

    slow.handle_in = stand_still  # type: ignore[method-assign]
    await other.subscribe(slow, config, "payments")
    standing = asyncio.create_task(other.redrive(entry.id))
    await asyncio.wait_for(inside.wait(), 20)
    with pytest.raises(SubscriptionStateError, match="somebody else tries it now"):
        await manager.redrive(entry.id)
    leases = (await world.store.core()).leases
    (lease,) = await leases.list("payments#letter/")
    await leases.release(lease)
    assert await manager.redrive(entry.id)
    gate.set()
    with pytest.raises((LeaseLostError, CheckpointError)):
        await standing
    assert await world.rows() == [1, 2, 3, 4]
    (done,) = await dlq.get_failed_events("payments", None)
    assert (done.id, done.status) == (entry.id, "resolved")


async def test_starting_anew_writes_anew(world: World) -> None:
    """From the beginning: the position goes back first, then every event comes again."""
    await world.fill(10)
    await run(world.manager(), Payments(world))
    await run(world.manager(), Payments(world), start_from="beginning")
    assert await world.rows() == sorted([*range(1, 10)] * 2)


async def test_one_event_by_hand(world: World) -> None:
    """`handle` is one transaction; progress is told, and forgotten by `reset`."""
    projection = Payments(world, {2: 1})
    await projection.handle(paid(uuid4(), 1))
    with pytest.raises(ValueError, match="not now"):
        await projection.handle(paid(uuid4(), 2))
    assert await world.rows() == [1]
    await world.fill(5)
    manager = world.manager()
    subscription = await manager.subscribe(projection, name="Payments")
    async with manager:
        await subscription.caught_up()
    last = subscription.last_event_id
    beside = world.source is world.store
    assert await projection.get_checkpoint() == (None if beside else str(last))
    await projection.reset()
    assert projection.calls == 0
    assert await projection.get_checkpoint() is None
    async with manager:
        await subscription.caught_up()
    assert projection.calls == 4, "all of them come again"
