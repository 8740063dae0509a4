"""The classes of the guide: bus, projections, checkpoints, subscription manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiosqlite
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from evsrc import (
    AggregateRepository,
    CheckpointData,
    DeclarativeProjection,
    DomainEvent,
    EventStore,
    HandlerSignatureError,
    InMemoryCheckpointRepository,
    InMemoryEventBus,
    InMemoryEventStore,
    LagMetrics,
    PostgreSQLCheckpointRepository,
    PostgreSQLEventStore,
    SQLiteCheckpointRepository,
    SQLiteEventStore,
    SubscriptionAlreadyExistsError,
    SubscriptionConfigError,
    handles,
)
from evsrc.subscriptions import (
    CheckpointStrategy,
    SubscriptionConfig,
    SubscriptionManager,
    SubscriptionState,
    create_catch_up_config,
    create_live_only_config,
)
from tests.facade_domain import REGISTRY, Account, Closed, Opened, Paid, opened, paid

QUICK: dict[str, Any] = {"initial_retry_delay": 0.001, "max_retry_delay": 0.002}


class Balances(DeclarativeProjection):
    """A read model in the guide's style."""

    def __init__(self, checkpoint_repo: Any = None) -> None:
        super().__init__(checkpoint_repo)
        self.balances: dict[UUID, int] = {}
        self.seen: list[DomainEvent] = []

    @handles(Opened)
    async def _opened(self, event: Opened) -> None:
        self.seen.append(event)
        self.balances[event.aggregate_id] = 0

    @handles(Paid)
    async def _paid(self, conn: Any, event: Paid) -> None:
        assert conn is None
        self.seen.append(event)
        self.balances[event.aggregate_id] += event.amount

    async def _truncate_read_models(self) -> None:
        self.balances.clear()


class Recorder:
    """A subscriber without a base class."""

    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[DomainEvent] = []
        self.error = error
        self.calls = 0
        self.gate: asyncio.Event | None = None

    async def handle(self, event: DomainEvent) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            await self.gate.wait()
        self.seen.append(event)


class SyncRecorder:
    """A subscriber whose `handle` is not async."""

    def __init__(self) -> None:
        self.seen: list[DomainEvent] = []

    def subscribed_to(self) -> list[type[DomainEvent]]:
        return [Paid]

    def handle(self, event: DomainEvent) -> None:
        self.seen.append(event)


class World:
    """Everything the guide sets up, in one place."""

    def __init__(self, store: EventStore, checkpoints: Any) -> None:
        self.store = store
        self.bus = InMemoryEventBus()
        self.checkpoints = checkpoints
        self.repo = AggregateRepository(store, Account, "Account", self.bus)
        self.managers: list[SubscriptionManager] = []

    def manager(self, **options: Any) -> SubscriptionManager:
        made = SubscriptionManager(
            event_store=self.store,
            event_bus=self.bus,
            checkpoint_repo=self.checkpoints,
            **options,
        )
        self.managers.append(made)
        return made

    async def account(self, *payments: int) -> Account:
        account = self.repo.create_new(uuid4())
        account.open("ann")
        for amount in payments:
            account.pay(amount)
        await self.repo.save(account)
        return account


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as closing:
        store: EventStore
        checkpoints: Any
        match request.param:
            case "memory":
                store = InMemoryEventStore(event_registry=REGISTRY)
                checkpoints = InMemoryCheckpointRepository()
            case "sqlite":
                connection = await aiosqlite.connect(tmp_path / "checkpoints.db")
                closing.push_async_callback(connection.close)
                store = SQLiteEventStore(str(tmp_path / "events.db"), REGISTRY)
                checkpoints = SQLiteCheckpointRepository(connection)
            case _:
                url = request.getfixturevalue("evsrc_postgres_database")
                engine = create_async_engine(url.replace("://", "+asyncpg://", 1))
                closing.push_async_callback(engine.dispose)
                store = PostgreSQLEventStore(async_sessionmaker(engine), REGISTRY)
                checkpoints = PostgreSQLCheckpointRepository(engine)
        made = World(store, checkpoints)
        yield made
        for manager in made.managers:
            await manager.stop()
        await made.bus.shutdown()
        await store.close()


# Bus.


async def test_handlers_get_the_events_of_their_class() -> None:
    """Exact classes, wildcards, objects and functions, sync and async."""
    bus, seen = InMemoryEventBus(), Recorder()
    calls: list[str] = []
    bus.subscribe(Opened, seen)
    bus.subscribe(Opened, lambda event: calls.append(event.event_type))
    bus.subscribe_all(projection := Balances())
    bus.subscribe_to_all_events(everything := Recorder())
    events = [opened(), paid(uuid4(), 1)]
    await bus.publish([events[0]])
    assert seen.seen == projection.seen == everything.seen == [events[0]]
    assert calls == ["Opened"]
    assert bus.get_subscriber_count() == 4
    assert bus.get_subscriber_count(Opened) == 3
    assert bus.get_wildcard_subscriber_count() == 1
    assert bus.unsubscribe(Opened, seen)
    assert not bus.unsubscribe(Opened, seen)
    assert bus.unsubscribe_from_all_events(everything)
    assert not bus.unsubscribe_from_all_events(everything)
    await bus.publish([opened()])
    assert len(seen.seen) == 1
    bus.clear_subscribers()
    assert bus.get_subscriber_count() == 0


async def test_failing_handlers_are_counted_and_disturb_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The publisher and the other handlers do not notice."""
    bus, good = InMemoryEventBus(), Recorder()
    bus.subscribe(Opened, Recorder(ValueError("broken")))
    bus.subscribe(Opened, good)
    await bus.publish([opened(), opened()])
    assert len(good.seen) == 2
    stats = bus.get_stats()
    assert (
        stats["events_published"],
        stats["handlers_invoked"],
        stats["handler_errors"],
    ) == (2, 4, 2)
    assert stats["background_tasks_created"] == stats["background_tasks_completed"] == 2
    assert "broken" in caplog.text


async def test_a_slow_handler_is_waited_for_once(recwarn: Any) -> None:
    """It goes on in the background, in order; later publishers do not wait for it."""
    bus, slow, quick = InMemoryEventBus(), Recorder(), Recorder()
    slow.gate = asyncio.Event()
    bus.subscribe(Opened, slow)
    bus.subscribe(Opened, quick)
    loop, events = asyncio.get_running_loop(), [opened() for _ in range(4)]
    await bus.publish(events[:1])
    started = loop.time()
    await bus.publish(events[1:2])
    await bus.publish(events[2:3])
    assert loop.time() - started < 0.08
    assert quick.seen == events[:3]
    assert slow.seen == []
    assert bus.get_background_task_count() == 1
    slow.gate.set()
    await bus.publish(events[3:], background=True)
    await bus.shutdown(timeout=10)
    assert slow.seen == quick.seen == events
    assert bus.get_background_task_count() == 0


async def test_shutdown_ends_handlers_that_hang() -> None:
    """After its timeout a handler that does not end is cancelled."""
    bus, hangs = InMemoryEventBus(), Recorder()
    hangs.gate = asyncio.Event()
    bus.subscribe(Opened, hangs)
    await bus.publish([opened()], background=True)
    await bus.shutdown(timeout=0.01)
    assert bus.get_background_task_count() == 0
    assert hangs.seen == []


async def test_a_handler_may_publish() -> None:
    """A handler that publishes an event that it handles itself does not lock up."""
    bus = InMemoryEventBus()
    seen: list[DomainEvent] = []

    async def again(event: DomainEvent) -> None:
        seen.append(event)
        if len(seen) < 3:
            await bus.publish([opened()])

    bus.subscribe(Opened, again)
    await asyncio.wait_for(bus.publish([opened()]), 10)
    await bus.shutdown()
    assert len(seen) == 3


# Projections.


async def test_projections_dispatch_and_reset() -> None:
    """Each event goes to its handler; a reset empties the read model."""
    checkpoints = InMemoryCheckpointRepository()
    projection, id = Balances(checkpoints), uuid4()
    assert set(projection.subscribed_to()) == {Opened, Paid}
    first, second = opened(id), paid(id, 5)
    await projection.handle(first)
    await projection.handle(second)
    await projection.handle(closed := Closed(aggregate_id=id))
    assert projection.balances == {id: 5}
    assert await projection.get_checkpoint() == str(closed.event_id)
    await projection.reset()
    assert projection.balances == {}
    assert await projection.get_checkpoint() is None
    assert await Balances().get_checkpoint() is None
    await Balances().reset()


def test_projection_handlers_are_checked_when_the_class_is_made() -> None:
    """A handler that is not async, or takes too much, does not wait for an event."""

    def sync(self: Any, event: Opened) -> None: ...
    async def crowded(self: Any, a: int, b: int, event: Opened) -> None: ...

    for method, message in ((sync, "must be async"), (crowded, "must take")):
        with pytest.raises(HandlerSignatureError, match=message):
            type("Bad", (DeclarativeProjection,), {"m": handles(Opened)(method)})


# Checkpoints.


async def test_checkpoints_are_kept(world: World) -> None:
    """Both repositories keep event, type, count, time and position."""
    kept, ids = world.checkpoints, [uuid4() for _ in range(3)]
    assert await kept.get_checkpoint("a") is None
    assert await kept.get_position("a") is None
    assert await kept.get_all_checkpoints() == []
    assert await kept.get_lag_metrics("a") is None
    await kept.update_checkpoint("a", ids[0], "Opened")
    await kept.save_position("b", 7, ids[1], "Paid")
    await kept.update_checkpoint("b", ids[2], "Closed")
    assert await kept.get_checkpoint("a") == ids[0]
    assert await kept.get_position("a") is None
    assert await kept.get_position("b") == 7
    a, b = await kept.get_all_checkpoints()
    assert isinstance(b, CheckpointData)
    assert (b.projection_name, b.last_event_id, b.last_event_type) == (
        "b",
        ids[2],
        "Closed",
    )
    assert (a.events_processed, b.events_processed) == (1, 2)
    assert abs(b.last_processed_at - datetime.now(UTC)) < timedelta(seconds=5)
    lag = await kept.get_lag_metrics("a")
    assert isinstance(lag, LagMetrics)
    assert (lag.last_event_id, lag.events_processed) == (str(ids[0]), 1)
    assert 0 <= lag.lag_seconds < 5
    await kept.reset_checkpoint("b")
    assert await kept.get_position("b") is None
    if isinstance(kept, InMemoryCheckpointRepository):
        await kept.clear()
        assert await kept.get_all_checkpoints() == []


async def test_sqlite_checkpoints_join_the_callers_transaction(tmp_path: Path) -> None:
    """Inside a transaction they are part of it; else they are committed at once."""
    path = tmp_path / "app.db"
    async with aiosqlite.connect(path) as connection, aiosqlite.connect(path) as other:
        kept = SQLiteCheckpointRepository(connection)
        await kept.save_position("a", 1, uuid4(), "x")
        assert await SQLiteCheckpointRepository(other).get_position("a") == 1
        await connection.execute("BEGIN")
        await kept.save_position("a", 2, uuid4(), "x")
        await connection.rollback()
        assert await kept.get_position("a") == 1


async def test_sqlite_checkpoints_outlive_a_rollback_of_their_first_use(
    tmp_path: Path,
) -> None:
    """The table is there again after the transaction that made it was taken back."""
    async with aiosqlite.connect(tmp_path / "app.db") as connection:
        kept = SQLiteCheckpointRepository(connection)
        await connection.execute("BEGIN")
        await kept.save_position("a", 1, uuid4(), "x")
        await connection.rollback()
        assert await kept.get_position("a") is None
        await kept.save_position("a", 2, uuid4(), "x")
        assert await kept.get_position("a") == 2


async def test_sqlite_checkpoints_saved_together_are_committed(tmp_path: Path) -> None:
    """Two subscriptions that save at once on one connection leave nothing open."""
    path = tmp_path / "app.db"
    async with aiosqlite.connect(path) as connection, aiosqlite.connect(path) as other:
        kept = SQLiteCheckpointRepository(connection)

        async def save(name: str) -> None:
            for position in range(1, 21):
                await kept.save_position(name, position, uuid4(), "x")
                if position % len(name) == 0:
                    await asyncio.sleep(0)
                seen = await there.get_position(name)
                assert seen == position, "it was saved, but not committed"

        there = SQLiteCheckpointRepository(other)
        await asyncio.gather(*(save("a" * n) for n in range(1, 6)))
        assert not connection.in_transaction


async def test_checkpoints_may_be_in_the_file_before_the_events(tmp_path: Path) -> None:
    """A file that only holds our own checkpoints is not taken for somebody else's."""
    path = tmp_path / "app.db"
    async with aiosqlite.connect(path) as connection:
        kept = SQLiteCheckpointRepository(connection)
        await kept.save_position("a", 1, uuid4(), "x")
        async with SQLiteEventStore(str(path), REGISTRY) as store:
            assert await store.get_global_position() == 0
        assert await kept.get_position("a") == 1


# Manager.


async def test_history_then_live_in_one_loop(world: World) -> None:
    """History is handled before `start` returns, live events before `save` returns."""
    await world.account(1, 2)
    manager, projection = world.manager(), Balances()
    subscription = await manager.subscribe(projection, name="balances")
    assert subscription.state is SubscriptionState.STARTING
    assert await manager.start() == {"balances": None}
    assert len(projection.seen) == 3
    for n in range(10):
        account = await world.account(n, n)
        assert projection.balances[account.aggregate_id] == 2 * n
    assert len(projection.seen) == len({e.event_id for e in projection.seen}) == 33
    assert subscription.state in {SubscriptionState.CATCHING_UP, SubscriptionState.LIVE}
    assert subscription.events_processed == subscription.last_processed_position == 33
    assert subscription.last_event_type == "Paid"
    assert subscription.last_event_id == projection.seen[-1].event_id
    assert (subscription.is_running, subscription.is_paused) == (True, False)
    status = manager.get_all_statuses()["balances"]
    assert (status.position, status.error) == (33, None)
    assert status.last_processed_at is not None


async def test_concurrent_saves_are_delivered_once(world: World) -> None:
    """Twenty concurrent saves give each event to each subscriber exactly once."""
    manager, first, second = world.manager(), Recorder(), SyncRecorder()
    await manager.subscribe(first, name="first")
    await manager.subscribe(second, name="second")
    await manager.start()
    await asyncio.gather(*(world.account(n) for n in range(20)))
    for subscription in manager.subscriptions:
        await subscription.caught_up()
    assert len(first.seen) == len({e.event_id for e in first.seen}) == 40
    assert len(second.seen) == 20
    assert await world.store.get_global_position() == 40


async def test_a_manager_goes_on_where_it_stopped(world: World) -> None:
    """After stop and start, also of another manager, nothing is missed or doubled."""
    seen = Recorder()
    manager = world.manager()
    await manager.subscribe(seen, name="s")
    await manager.start()
    await world.account(1)
    await manager.stop()
    assert not manager.is_running
    await world.account(2)
    await manager.start()
    assert len(seen.seen) == 4
    await manager.stop()
    await world.account(3)
    async with world.manager() as other:
        await other.subscribe(seen, name="s")
        await other.start(["s"])
        assert len(seen.seen) == 6
        assert await world.checkpoints.get_position("s") in (4, 6)
    assert await world.checkpoints.get_position("s") == 6


async def test_a_dead_subscriber_does_not_hold_save(world: World) -> None:
    """Beside one that fails and one that hangs, `save` returns and the others see it."""
    manager, good, bad, hangs = (
        world.manager(),
        Recorder(),
        Recorder(ValueError()),
        Recorder(),
    )
    hangs.gate = asyncio.Event()
    slow = SubscriptionConfig(initial_retry_delay=60)
    await manager.subscribe(bad, slow, "bad")
    await manager.subscribe(hangs, name="hangs")
    await manager.subscribe(good, name="good")
    await manager.start()
    await world.account(1)
    loop = asyncio.get_running_loop()
    took = []
    for n in range(20):
        started = loop.time()
        await world.account(n)
        took.append(loop.time() - started)
        assert len(good.seen) == 2 * (n + 2)
    assert sorted(took)[10] < 1, "nobody waits for the dead"
    assert manager.get_health()["status"] == "unhealthy"
    assert bad.calls == 1
    hangs.gate.set()


async def test_a_poison_event_stops_the_subscription_in_sight(world: World) -> None:
    """Without dead letters nothing passes it: state ERROR, and it is there next time."""
    await world.account(1)
    seen, manager = Recorder(ValueError("poison")), world.manager()
    config = SubscriptionConfig(max_retries=2, **QUICK)
    subscription = await manager.subscribe(seen, config, "s")
    await manager.start()
    with pytest.raises(Exception, match="poison"):
        await subscription.caught_up()
    assert (seen.calls, subscription.events_failed) == (3, 3)
    assert subscription.state is SubscriptionState.ERROR
    assert "poison" in str(subscription.last_error)
    assert manager.get_health()["status"] == "unhealthy"
    assert manager.get_health()["subscriptions"][0]["status"] == "error"
    assert await world.checkpoints.get_position("s") is None
    seen.error = None
    assert await manager.start() == {"s": None}
    assert len(seen.seen) == 2
    assert manager.get_health()["status"] == "healthy"


class DeadLetters:
    """What a dead letter repository is asked to do."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    async def add_failed_event(self, **entry: Any) -> None:
        self.kept.append(entry)


@pytest.mark.parametrize("go_on", [True, False])
async def test_poison_events_are_put_aside(world: World, go_on: bool) -> None:
    """With dead letters an event that fails for good is kept there, and the rest goes on."""
    letters = DeadLetters()
    manager = world.manager(dlq_repo=letters)

    class Picky(Recorder):
        async def handle(self, event: DomainEvent) -> None:
            if isinstance(event, Paid) and event.amount == 13:
                raise ValueError("unlucky")
            await super().handle(event)

    picky = Picky()
    config = SubscriptionConfig(continue_on_error=go_on, max_retries=1, **QUICK)
    subscription = await manager.subscribe(picky, config, "picky")
    await world.account(1, 13, 2)
    await manager.start()
    if go_on:
        await subscription.caught_up()
        assert len(picky.seen) == 3
        (letter,) = letters.kept
        assert (letter["projection_name"], letter["event_type"]) == ("picky", "Paid")
        assert (letter["retry_count"], letter["event_data"]["amount"]) == (1, 13)
        assert subscription.events_dlq == 1
    else:
        with pytest.raises(Exception, match="unlucky"):
            await subscription.caught_up()
        assert letters.kept == []
        assert len(picky.seen) == 2


async def test_events_are_chosen_by_class_type_and_tenant(world: World) -> None:
    """The configuration narrows what a subscriber gets; the position moves on all."""
    tenant, id = uuid4(), uuid4()
    mine = Paid(aggregate_id=id, amount=1, tenant_id=tenant)
    await world.store.append_events(id, "Account", [opened(id), mine, paid(id, 2)], 0)
    manager = world.manager()
    wanted: dict[str, dict[str, Any]] = {
        "all": {},
        "class": {"event_types": (Paid,)},
        "type": {"aggregate_types": ("Order",)},
        "tenant": {"tenant_id": tenant},
        "after": {"start_from": 2},
    }
    seen = {name: Recorder() for name in wanted}
    for name, config in wanted.items():
        await manager.subscribe(seen[name], SubscriptionConfig(**config), name)
    await manager.start()
    for subscription in manager.subscriptions:
        await subscription.caught_up()
        assert subscription.last_processed_position == 3
    counts = {name: len(recorder.seen) for name, recorder in seen.items()}
    assert counts == {"all": 3, "class": 2, "type": 0, "tenant": 1, "after": 1}


async def test_start_positions(world: World) -> None:
    """From the beginning again and again; or only what comes from now on."""
    await world.account(1)
    again, live = Recorder(), Recorder()
    for _ in range(2):
        manager = world.manager()
        await manager.subscribe(
            again, SubscriptionConfig(start_from="beginning"), "again"
        )
        await manager.subscribe(live, create_live_only_config(), "live")
        await manager.start()
        await manager.stop()
    assert (len(again.seen), len(live.seen)) == (4, 0)
    manager = world.manager()
    await manager.subscribe(live, create_live_only_config(), "live")
    await manager.start()
    await world.account(1)
    assert len(live.seen) == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            SubscriptionConfig(checkpoint_strategy=CheckpointStrategy.EVERY_EVENT),
            [1, 2, 3, 4, 5],
        ),
        (SubscriptionConfig(batch_size=2), [2, 4, 5]),
        (create_catch_up_config(), [5]),
        (create_catch_up_config(checkpoint_every_batch=False), [5]),
        (
            SubscriptionConfig(
                checkpoint_strategy=CheckpointStrategy.PERIODIC,
                checkpoint_interval_seconds=0.001,
            ),
            [1, 2, 3, 4, 5],
        ),
    ],
    ids=["every event", "every batch", "one batch", "rarely", "often"],
)
async def test_positions_are_saved_by_the_strategy(
    world: World, config: SubscriptionConfig, expected: list[int]
) -> None:
    """After each event, each batch, or when the interval is over; and at the end."""
    await world.account(1, 2, 3, 4)
    saved: list[int] = []
    save = world.checkpoints.save_position

    async def save_position(name: str, position: int, *event: Any) -> None:
        saved.append(position)
        await save(name, position, *event)

    world.checkpoints.save_position = save_position

    class Slow(Recorder):
        async def handle(self, event: DomainEvent) -> None:
            await asyncio.sleep(0.002)
            await super().handle(event)

    manager = world.manager()
    await manager.subscribe(Slow(), config, "s")
    await manager.start()
    await manager.stop()
    assert saved == expected


async def test_a_handler_has_its_time(world: World) -> None:
    """A handler that takes longer than `processing_timeout` has failed."""
    await world.account()
    hangs, manager = Recorder(), world.manager()
    hangs.gate = asyncio.Event()
    config = SubscriptionConfig(processing_timeout=0.01, max_retries=1, **QUICK)
    subscription = await manager.subscribe(hangs, config, "s")
    await manager.start()
    with pytest.raises(Exception, match="TimeoutError"):
        await subscription.caught_up()
    assert hangs.calls == 2


async def test_pause_and_resume(world: World) -> None:
    """A paused subscription handles nothing and is not waited for; then it goes on."""
    manager, seen = world.manager(), Recorder()
    await manager.subscribe(seen, name="s")
    assert not await manager.pause_subscription("s")
    await manager.start()
    await world.account(1)
    assert await manager.pause_subscription("s")
    subscription = manager.get_subscription("s")
    assert subscription is not None
    assert subscription.is_paused
    await world.account(2)
    assert len(seen.seen) == 2
    assert not await manager.resume_subscription("nobody")
    assert await manager.resume_subscription("s")
    assert not await manager.resume_subscription("s")
    await subscription.caught_up()
    assert len(seen.seen) == 4


async def test_subscriptions_come_and_go(world: World) -> None:
    """Names are unique; one added to a running manager runs; one removed stops."""
    manager, first, second = world.manager(), Recorder(), Recorder()
    await manager.subscribe(first)
    with pytest.raises(
        SubscriptionAlreadyExistsError, match="'Recorder' already exists"
    ):
        await manager.subscribe(second)
    nothing: Any = object()
    with pytest.raises(SubscriptionConfigError, match="no `handle` method"):
        await manager.subscribe(nothing)
    assert manager.get_health()["status"] == "stopped"
    await manager.start()
    added = await manager.subscribe(second, name="second")
    await world.account(1)
    await added.caught_up()
    assert len(first.seen) == len(second.seen) == 2
    assert manager.subscription_names == ["Recorder", "second"]
    assert manager.subscription_count == 2
    assert await manager.unsubscribe("second")
    assert not await manager.unsubscribe("second")
    assert manager.get_subscription("second") is None
    await world.account(2)
    assert (len(first.seen), len(second.seen)) == (4, 2)


async def test_a_handler_may_save(world: World) -> None:
    """A subscriber that saves aggregates itself is not waited for by its own save."""

    class Greets(Recorder):
        async def handle(self, event: DomainEvent) -> None:
            await super().handle(event)
            if isinstance(event, Opened):
                await world.repo.execute(event.aggregate_id, lambda a: a.pay(1))

    manager, greets = world.manager(), Greets()
    await manager.subscribe(greets, name="greets")
    await manager.start()
    loop = asyncio.get_running_loop()
    started = loop.time()
    account = await world.account()
    assert loop.time() - started < 5
    subscription = manager.get_subscription("greets")
    assert subscription is not None
    await subscription.caught_up()
    await subscription.caught_up()  # with what its handler has saved, too
    assert (await world.repo.load(account.aggregate_id)).version == 2
    assert [event.event_type for event in greets.seen] == ["Opened", "Paid"]


async def test_another_process_is_followed(tmp_path: Path) -> None:
    """Events that another store appends to the file arrive without any bus."""
    path = str(tmp_path / "events.db")
    async with (
        SQLiteEventStore(path, REGISTRY) as here,
        SQLiteEventStore(path, REGISTRY) as there,
    ):
        seen = Recorder()
        manager = SubscriptionManager(
            here, InMemoryEventBus(), InMemoryCheckpointRepository()
        )
        subscription = await manager.subscribe(seen, name="s")
        async with manager:
            repo = AggregateRepository(there, Account, "Account")
            account = repo.create_new(uuid4())
            account.open("ann")
            await repo.save(account)
            await subscription.core.wait_for(1, timedelta(seconds=10))
        assert len(seen.seen) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"start_from": "middle"},
        {"start_from": -1},
        {"batch_size": 0},
        {"checkpoint_interval_seconds": 0},
        {"processing_timeout": -1},
        {"max_retries": -1},
        {"initial_retry_delay": 5, "max_retry_delay": 1},
        {"retry_exponential_base": 0.5},
        {"retry_jitter": 2},
    ],
)
def test_configurations_are_checked(bad: dict[str, Any]) -> None:
    """A value out of its range is refused by name."""
    with pytest.raises(SubscriptionConfigError, match=f"{next(iter(bad))} must be"):
        SubscriptionConfig(**bad)
