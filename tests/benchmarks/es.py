"""eventsource-py: 0.14 on Python 3.13, 0.8.1 on 3.11, by its documented classes.

Its SQLite connection has SQLite's default, synchronous=FULL, unless a row says NORMAL.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from functools import partial
from importlib.metadata import version
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4, uuid5

from eventsource import (
    AggregateRepository,
    DeclarativeAggregate,
    DomainEvent,
    InMemoryEventBus,
    InMemoryEventStore,
    SQLiteEventStore,
    StreamId,
    handles,
    register_event,
)
from eventsource.adapters._sql.engine import create_async_engine
from eventsource.adapters.serialization import json_dumps, json_loads
from eventsource.adapters.sql.checkpoints import SQLCheckpointRepository
from eventsource.application.subscriptions import (
    SubscriptionManager,
    create_catch_up_config,
)
from eventsource.ports import ExpectedVersion, FeedReadOptions
from pydantic import BaseModel

from .bench import PAGE, STREAM, WRITERS, Bench, Signal
from .domain import Fields, NotOpenError, fresh_values, values

NAME = f"eventsource-py {version('eventsource-py')}"
IMPORTS = (
    "from eventsource import AggregateRepository, DeclarativeAggregate, DomainEvent, "
    "InMemoryEventBus, SQLiteEventStore, handles, register_event; "
    "from eventsource.application.subscriptions import SubscriptionManager"
)

logging.getLogger("eventsource").setLevel(logging.WARNING)


@register_event
class Opened(DomainEvent):
    """The account exists."""

    aggregate_type: str = "Account"
    owner: str
    note: str
    reference: UUID
    amount: Decimal


@register_event
class Deposited(DomainEvent):
    """Money came in."""

    aggregate_type: str = "Account"
    owner: str
    note: str
    reference: UUID
    amount: Decimal


class Account(BaseModel):
    """What is known about one account."""

    owner: str = ""
    events: int = 0
    balance: Decimal = Decimal()


class AccountAggregate(DeclarativeAggregate[Account]):
    """The account as a class, as the guide writes it."""

    aggregate_type = "Account"

    def _get_initial_state(self) -> Account:
        return Account()

    def open(self, fields: Sequence[Any]) -> None:
        """Open the account."""
        owner, note, reference, amount = fields
        self.create_event(
            Opened, owner=owner, note=note, reference=reference, amount=amount
        )

    def deposit(self, fields: Sequence[Any]) -> None:
        """Pay money in."""
        if self.version == 0:
            raise NotOpenError
        owner, note, reference, amount = fields
        self.create_event(
            Deposited, owner=owner, note=note, reference=reference, amount=amount
        )

    @handles(Opened)
    def _on_opened(self, event: Opened) -> None:
        self._state = Account(owner=event.owner, events=1, balance=event.amount)

    @handles(Deposited)
    def _on_deposited(self, event: Deposited) -> None:
        state = self._state or self._get_initial_state()
        self._state = state.model_copy(
            update={
                "owner": event.owner,
                "events": state.events + 1,
                "balance": state.balance + event.amount,
            }
        )


def _id(number: int) -> UUID:
    return uuid5(UUID(int=0), str(number))


def _stream(id: UUID) -> StreamId:
    return StreamId(aggregate_id=id, category="Account")


def _events(
    aggregate_id: UUID, start: int, count: int, values: Callable[[], Fields] = values
) -> list[DomainEvent]:
    events: list[DomainEvent] = []
    for number in range(start + 1, start + count + 1):
        owner, note, reference, amount = values()
        events.append(
            Deposited(
                aggregate_id=aggregate_id,
                aggregate_version=number,
                owner=owner,
                note=note,
                reference=reference,
                amount=amount,
            )
        )
    return events


async def _opened(path: str, synchronous: str = "FULL") -> SQLiteEventStore:
    store = SQLiteEventStore(path)
    connection = await store._conn()
    await connection.execute(f"PRAGMA synchronous = {synchronous}")
    return store


async def memory_commands(bench: Bench) -> float:
    """A new aggregate, three command methods, `save`."""
    repository = AggregateRepository(InMemoryEventStore(), AccountAggregate)

    async def step() -> int:
        account = AccountAggregate(uuid4())
        account.open(values())
        account.deposit(values())
        account.deposit(values())
        await repository.save(account)
        return 3

    return await bench.rate(step)


async def memory_cycles(bench: Bench) -> float:
    """Ten commands on a new aggregate, each with `load` and `save` of its own."""
    repository = AggregateRepository(InMemoryEventStore(), AccountAggregate)

    async def step() -> int:
        account = AccountAggregate(uuid4())
        account.open(values())
        await repository.save(account)
        for _ in range(STREAM - 1):
            account = await repository.load(account.aggregate_id)
            account.deposit(values())
            await repository.save(account)
        return STREAM

    return await bench.rate(step)


async def _rehydrate(bench: Bench, store: Any, count: int) -> float:
    repository = AggregateRepository(store, AccountAggregate)

    async def step() -> int:
        account = await repository.load(_id(0))
        assert account.state.events == count
        return count

    return await bench.rate(step)


async def memory_rehydrate(bench: Bench) -> float:
    """`load` of an aggregate of 1,000 events."""
    store = InMemoryEventStore()
    events = _events(_id(0), 0, 1000)
    await store.append(_stream(_id(0)), events, ExpectedVersion.exact(0))
    return await _rehydrate(bench, store, 1000)


async def _fill_stream(store: Any, count: int) -> None:
    events = _events(_id(0), 0, count)
    await store.append(_stream(_id(0)), events, ExpectedVersion.exact(0))


async def _one_stream(count: int, path: str) -> None:
    store = await _opened(path, "NORMAL")
    await _fill_stream(store, count)
    await store.close()


async def _sqlite_rehydrate(bench: Bench, count: int) -> float:
    store = await _opened(
        await bench.prepared(f"es-{count}", partial(_one_stream, count))
    )
    try:
        return await _rehydrate(bench, store, count)
    finally:
        await store.close()


async def sqlite_rehydrate_1000(bench: Bench) -> float:
    """`load` of an aggregate of 1,000 events."""
    return await _sqlite_rehydrate(bench, 1000)


async def sqlite_rehydrate_10000(bench: Bench) -> float:
    """`load` of an aggregate of 10,000 events."""
    return await _sqlite_rehydrate(bench, 10_000)


async def _fill_log(store: Any, events: int, concurrency: int = 1) -> None:
    numbers = iter(range(events // STREAM))

    async def fill() -> None:
        for n in numbers:
            new = _events(_id(n), 0, STREAM)
            await store.append(_stream(_id(n)), new, ExpectedVersion.exact(0))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(fill())


async def _log(events: int, path: str) -> None:
    store = await _opened(path, "NORMAL")
    await _fill_log(store, events)
    await store.close()


def _prepared_log(bench: Bench) -> Awaitable[str]:
    return bench.prepared("es-log", partial(_log, bench.events))


async def sqlite_load(bench: Bench) -> float:
    """`load` of a random aggregate of the log."""
    draw = random.Random(1)
    store = await _opened(await _prepared_log(bench))
    repository = AggregateRepository(store, AccountAggregate)

    async def step() -> int:
        account = await repository.load(_id(draw.randrange(bench.events // STREAM)))
        assert account.version == STREAM
        return 1

    try:
        return await bench.rate(step)
    finally:
        await store.close()


async def _append_to(bench: Bench, store: Any, size: int) -> float:
    versions = dict.fromkeys(range(100), 0)
    draw = random.Random(2)
    ids = [_id(n) for n in range(100)]

    async def step() -> int:
        number = draw.randrange(100)
        known, id = versions[number], ids[number]
        new = _events(id, known, size)
        await store.append(_stream(id), new, ExpectedVersion.exact(known))
        versions[number] += size
        return size

    return await bench.rate(step)


async def _append(bench: Bench, size: int, synchronous: str) -> float:
    store = await _opened(bench.file(), synchronous)
    try:
        return await _append_to(bench, store, size)
    finally:
        await store.close()


async def sqlite_append_full(bench: Bench) -> float:
    """`append` of one event to one of 100 streams."""
    return await _append(bench, 1, "FULL")


async def sqlite_append_normal(bench: Bench) -> float:
    """The same, synchronous=NORMAL."""
    return await _append(bench, 1, "NORMAL")


async def sqlite_append_100(bench: Bench) -> float:
    """`append` of a hundred events to one of 100 streams."""
    return await _append(bench, 100, "FULL")


def _writing(store: Any, first: int) -> Callable[[], Awaitable[int]]:
    ids = [_id(n) for n in range(first, first + WRITERS)]
    rounds = iter(range(10**9))

    async def write(id: UUID, start: int) -> None:
        for known in range(start, start + 5):
            new = _events(id, known, 1)
            await store.append(_stream(id), new, ExpectedVersion.exact(known))

    async def step() -> int:
        start = next(rounds) * 5
        async with asyncio.TaskGroup() as group:
            for id in ids:
                group.create_task(write(id, start))
        return WRITERS * 5

    return step


async def sqlite_writers(bench: Bench) -> float:
    """32 tasks, each appends one event after the other to a stream of its own."""
    store = await _opened(bench.file())
    try:
        return await bench.rate(_writing(store, 0))
    finally:
        await store.close()


async def _read_log(bench: Bench, store: Any) -> float:
    seen = 0

    async def handle(event: Any) -> None:
        nonlocal seen
        seen += event.amount is not None

    options, after, more = FeedReadOptions(limit=PAGE), None, True
    began = bench.start()
    while more:
        more = False
        async for envelope in store.read_all(after, options):
            await handle(envelope.event)
            after, more = envelope.position, True
    passed = bench.clock() - began
    assert seen == bench.events
    return seen / passed


async def sqlite_log(bench: Bench) -> float:
    """`read_all` by pages of 1,000, each event to an async handler."""
    store = await _opened(await _prepared_log(bench))
    try:
        return await _read_log(bench, store)
    finally:
        await store.close()


class _Counts:
    """A subscriber that counts."""

    def __init__(self, wanted: int) -> None:
        self.seen, self.wanted = 0, wanted
        self.done = asyncio.Event()

    def subscribed_to(self) -> list[type[DomainEvent]]:
        """Ask for both event classes."""
        return [Opened, Deposited]

    async def handle(self, _: DomainEvent) -> None:
        """Count one event."""
        self.seen += 1
        if self.seen == self.wanted:
            self.done.set()


async def _catch_up(bench: Bench, store: Any, engine: Any) -> float:
    counts = _Counts(bench.events)
    checkpoints = SQLCheckpointRepository(engine)
    await checkpoints.reset_checkpoint("catch-up")
    manager = SubscriptionManager(store, InMemoryEventBus(), checkpoints)
    await manager.subscribe(counts, create_catch_up_config(PAGE), "catch-up")
    began = bench.start()
    await manager.start()
    await counts.done.wait()
    await manager.stop()
    passed = bench.clock() - began
    assert await checkpoints.get_position("catch-up") is not None
    return counts.seen / passed


async def sqlite_catch_up(bench: Bench) -> float:
    """`SubscriptionManager` with `SQLCheckpointRepository`, pages of 1,000."""
    path = await _prepared_log(bench)
    store = await _opened(path)
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    try:
        return await _catch_up(bench, store, engine)
    finally:
        await store.close()
        await engine.dispose()


class _Signals:
    """A subscriber that tells when it was called."""

    def __init__(self) -> None:
        self.signal = Signal()

    def subscribed_to(self) -> list[type[DomainEvent]]:
        """Ask for both event classes."""
        return [Opened, Deposited]

    async def handle(self, _: DomainEvent) -> None:
        """Tell."""
        self.signal.fire()


async def _live(bench: Bench, store: Any, engine: Any) -> tuple[float, ...]:
    subscriber = _Signals()
    versions = iter(range(10**9))
    bus = InMemoryEventBus()
    manager = SubscriptionManager(store, bus, SQLCheckpointRepository(engine))
    await manager.subscribe(subscriber, name="live")
    await manager.start()

    async def act() -> float:
        known = next(versions)
        seen, began = subscriber.signal.arm(), perf_counter()
        new = _events(_id(0), known, 1)
        await store.append(_stream(_id(0)), new, ExpectedVersion.exact(known))
        await bus.publish(new)
        return await seen - began

    try:
        return await bench.latency(act)
    finally:
        await manager.stop()


async def sqlite_live(bench: Bench) -> tuple[float, ...]:
    """From the call of `append`, then `publish`, to the subscriber of a manager."""
    path = bench.file()
    store = await _opened(path)
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    try:
        return await _live(bench, store, engine)
    finally:
        await store.close()
        await engine.dispose()


def one_event(bench: Bench) -> tuple[float, ...]:
    """The event with its envelope fields; to JSON and back, as its stores do."""
    owner, note, reference, amount = values()
    aggregate_id = _id(0)

    def construct() -> DomainEvent:
        return Deposited(
            aggregate_id=aggregate_id,
            aggregate_version=7,
            owner=owner,
            note=note,
            reference=reference,
            amount=amount,
        )

    event = construct()
    data = json_dumps(event.model_dump(mode="json"))
    return (
        bench.microseconds(construct),
        bench.microseconds(lambda: json_dumps(event.model_dump(mode="json"))),
        bench.microseconds(lambda: Deposited.model_validate(json_loads(data))),
    )


async def live_events(count: int) -> object:
    """Fill a store in memory with streams of 100."""
    store = InMemoryEventStore()
    for number in range(count // 100):
        id = _id(number)
        new = _events(id, 0, 100, fresh_values)
        await store.append(_stream(id), new, ExpectedVersion.exact(0))
    return store
