"""evsrc as classes: `DomainEvent`, `AggregateRepository`, `SubscriptionManager`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any
from uuid import UUID, uuid5

import aiosqlite

from evsrc.core.codec import Envelope
from evsrc.core.event import StreamName
from evsrc.facade.aggregate import DeclarativeAggregate
from evsrc.facade.bus import InMemoryEventBus
from evsrc.facade.checkpoints import SQLiteCheckpointRepository
from evsrc.facade.codec import domain_codec
from evsrc.facade.config import create_catch_up_config
from evsrc.facade.events import DomainEvent, EventRegistry, register_event
from evsrc.facade.handlers import handles
from evsrc.facade.manager import SubscriptionManager
from evsrc.facade.repository import AggregateRepository
from evsrc.facade.stores import EventStore, InMemoryEventStore, SQLiteEventStore
from evsrc.runtime.ids import new_id
from evsrc.stores.sqlite import sqlite_store

from . import domain
from .bench import PAGE, STREAM, WRITERS, Bench, Signal
from .domain import Account, Fields, fresh_values, values

NAME = "evsrc classes"
IMPORTS = (
    "from evsrc import AggregateRepository, DeclarativeAggregate, DomainEvent, "
    "InMemoryEventBus, SQLiteEventStore, handles, register_event; "
    "from evsrc.subscriptions import SubscriptionManager"
)

registry = EventRegistry()


@register_event(registry=registry)
class Opened(DomainEvent):
    """The account exists."""

    aggregate_type: str = "Account"
    owner: str
    note: str
    reference: UUID
    amount: domain.Decimal


@register_event(registry=registry)
class Deposited(DomainEvent):
    """Money came in."""

    aggregate_type: str = "Account"
    owner: str
    note: str
    reference: UUID
    amount: domain.Decimal


class AccountAggregate(DeclarativeAggregate[Account]):
    """The account as a class."""

    aggregate_type = "Account"

    def _get_initial_state(self) -> Account:
        return Account()

    def _emit(self, event_class: type[Any], fields: Sequence[Any]) -> None:
        owner, note, reference, amount = fields
        event = event_class(
            aggregate_id=self.aggregate_id,
            aggregate_version=self.get_next_version(),
            owner=owner,
            note=note,
            reference=reference,
            amount=amount,
        )
        self.apply_event(event)

    def open(self, fields: Sequence[Any]) -> None:
        """Open the account."""
        self._emit(Opened, fields)

    def deposit(self, fields: Sequence[Any]) -> None:
        """Pay money in."""
        if self.version == 0:
            raise domain.NotOpenError
        self._emit(Deposited, fields)

    @handles(Opened)
    def _on_opened(self, event: Opened) -> None:
        self._fold(event)

    @handles(Deposited)
    def _on_deposited(self, event: Deposited) -> None:
        self._fold(event)

    def _fold(self, event: Any) -> None:
        state = self.state or Account()
        self._state = Account(
            event.owner, state.events + 1, state.balance + event.amount
        )


_NAMES = UUID(int=0)


def _id(number: int) -> UUID:
    return uuid5(_NAMES, str(number))


def _events(
    aggregate_id: UUID, start: int, count: int, values: Callable[[], Fields] = values
) -> list[DomainEvent]:
    events: list[DomainEvent] = []
    for version in range(start + 1, start + count + 1):
        owner, note, reference, amount = values()
        events.append(
            Deposited(
                aggregate_id=aggregate_id,
                aggregate_version=version,
                owner=owner,
                note=note,
                reference=reference,
                amount=amount,
            )
        )
    return events


def _repository(store: EventStore, **more: Any) -> AggregateRepository[Any]:
    return AggregateRepository(store, AccountAggregate, "Account", **more)


async def memory_commands(bench: Bench) -> float:
    """A new aggregate, three command methods, `save`."""
    repository = _repository(InMemoryEventStore(event_registry=registry))

    async def step() -> int:
        account = repository.create_new(new_id())
        account.open(values())
        account.deposit(values())
        account.deposit(values())
        await repository.save(account)
        return 3

    return await bench.rate(step)


async def memory_cycles(bench: Bench) -> float:
    """Ten commands on a new aggregate, each with `load` and `save` of its own."""
    repository = _repository(InMemoryEventStore(event_registry=registry))

    async def step() -> int:
        account = repository.create_new(new_id())
        account.open(values())
        await repository.save(account)
        for _ in range(STREAM - 1):
            account = await repository.load(account.aggregate_id)
            account.deposit(values())
            await repository.save(account)
        return STREAM

    return await bench.rate(step)


async def _rehydrate(bench: Bench, store: EventStore, count: int) -> float:
    repository = _repository(store)

    async def step() -> int:
        account = await repository.load(_id(0))
        assert account.state.events == count
        return count

    return await bench.rate(step)


async def memory_rehydrate(bench: Bench) -> float:
    """`load` of an aggregate of 1,000 events."""
    store = InMemoryEventStore(event_registry=registry)
    await store.append_events(_id(0), "Account", _events(_id(0), 0, 1000), 0)
    return await _rehydrate(bench, store, 1000)


async def _one_stream(count: int, path: str) -> None:
    async with SQLiteEventStore(path, registry) as store:
        for start in range(0, count, 500):
            new = _events(_id(0), start, 500)
            await store.append_events(_id(0), "Account", new, start)


async def _sqlite_rehydrate(bench: Bench, count: int) -> float:
    path = await bench.prepared(f"classes-{count}", partial(_one_stream, count))
    async with SQLiteEventStore(path, registry) as store:
        return await _rehydrate(bench, store, count)


async def sqlite_rehydrate_1000(bench: Bench) -> float:
    """`load` of an aggregate of 1,000 events."""
    return await _sqlite_rehydrate(bench, 1000)


async def sqlite_rehydrate_10000(bench: Bench) -> float:
    """`load` of an aggregate of 10,000 events."""
    return await _sqlite_rehydrate(bench, 10_000)


class _Normal(SQLiteEventStore):
    """The store of the facade over a record with synchronous=NORMAL."""

    async def _open(self) -> Any:
        codec = domain_codec(self.event_registry)
        return await sqlite_store(self.database, codec, synchronous="NORMAL")


async def _log(events: int, path: str) -> None:
    async with _Normal(path, registry) as store:
        for first in range(0, events // STREAM, 50):
            async with asyncio.TaskGroup() as group:
                for n in range(first, first + 50):
                    new = _events(_id(n), 0, STREAM)
                    group.create_task(store.append_events(_id(n), "Account", new, 0))


def _prepared_log(bench: Bench) -> Awaitable[str]:
    return bench.prepared("classes-log", partial(_log, bench.events))


async def sqlite_load(bench: Bench) -> float:
    """`load` of a random aggregate of the log."""
    draw = random.Random(1)
    async with SQLiteEventStore(await _prepared_log(bench), registry) as store:
        repository = _repository(store)

        async def step() -> int:
            account = await repository.load(_id(draw.randrange(bench.events // STREAM)))
            assert account.version == STREAM
            return 1

        return await bench.rate(step)


async def _append(bench: Bench, size: int, store: SQLiteEventStore) -> float:
    versions = dict.fromkeys(range(100), 0)
    draw = random.Random(2)
    ids = [_id(n) for n in range(100)]
    async with store:

        async def step() -> int:
            number = draw.randrange(100)
            version = versions[number]
            new = _events(ids[number], version, size)
            await store.append_events(ids[number], "Account", new, version)
            versions[number] += size
            return size

        return await bench.rate(step)


async def sqlite_append_full(bench: Bench) -> float:
    """`append_events` of one event to one of 100 streams."""
    return await _append(bench, 1, SQLiteEventStore(bench.file(), registry))


async def sqlite_append_normal(bench: Bench) -> float:
    """The same over a record with synchronous=NORMAL."""
    return await _append(bench, 1, _Normal(bench.file(), registry))


async def sqlite_append_100(bench: Bench) -> float:
    """`append_events` of a hundred events to one of 100 streams."""
    return await _append(bench, 100, SQLiteEventStore(bench.file(), registry))


async def sqlite_writers(bench: Bench) -> float:
    """32 tasks, each appends one event after the other to a stream of its own."""
    ids = [_id(n) for n in range(WRITERS)]
    rounds = iter(range(10**9))

    async def write(store: EventStore, id: UUID, start: int) -> None:
        for version in range(start, start + 5):
            await store.append_events(id, "Account", _events(id, version, 1), version)

    async with SQLiteEventStore(bench.file(), registry) as store:

        async def step() -> int:
            start = next(rounds) * 5
            async with asyncio.TaskGroup() as group:
                for id in ids:
                    group.create_task(write(store, id, start))
            return WRITERS * 5

        return await bench.rate(step)


async def sqlite_log(bench: Bench) -> float:
    """`read_all` of the store, each event to an async handler."""
    seen = 0

    async def handle(event: Any) -> None:
        nonlocal seen
        seen += event.amount is not None

    async with SQLiteEventStore(await _prepared_log(bench), registry) as store:
        began = bench.start()
        async for stored in store.read_all():
            await handle(stored.event)
        passed = bench.clock() - began
    assert seen == bench.events
    return seen / passed


class _Counts:
    """A subscriber that counts."""

    def __init__(self, wanted: int) -> None:
        self.seen, self.wanted = 0, wanted
        self.done = asyncio.Event()

    async def handle(self, _: DomainEvent) -> None:
        """Count one event."""
        self.seen += 1
        if self.seen == self.wanted:
            self.done.set()


async def sqlite_catch_up(bench: Bench) -> float:
    """`SubscriptionManager` with `SQLiteCheckpointRepository`, pages of 1,000."""
    counts = _Counts(bench.events)
    path = await _prepared_log(bench)
    async with (
        SQLiteEventStore(path, registry) as store,
        aiosqlite.connect(path) as connection,
    ):
        checkpoints = SQLiteCheckpointRepository(connection)
        await checkpoints.reset_checkpoint("catch-up")
        await connection.commit()
        manager = SubscriptionManager(store, InMemoryEventBus(), checkpoints)
        await manager.subscribe(counts, create_catch_up_config(PAGE), "catch-up")
        began = bench.start()
        async with manager:
            await counts.done.wait()
        passed = bench.clock() - began
        assert await checkpoints.get_position("catch-up") == bench.events
    return counts.seen / passed


class _Signals:
    """A subscriber that tells when it was called."""

    def __init__(self) -> None:
        self.signal = Signal()

    async def handle(self, _: DomainEvent) -> None:
        """Tell."""
        self.signal.fire()


async def sqlite_live(bench: Bench) -> tuple[float, ...]:
    """From the call of `append_events` to the subscriber of a running manager."""
    subscriber = _Signals()
    versions = iter(range(10**9))
    path = bench.file()
    async with (
        SQLiteEventStore(path, registry) as store,
        aiosqlite.connect(path) as connection,
    ):
        checkpoints = SQLiteCheckpointRepository(connection)
        manager = SubscriptionManager(store, InMemoryEventBus(), checkpoints)
        await manager.subscribe(subscriber, name="live")
        async with manager:

            async def act() -> float:
                version = next(versions)
                seen, began = subscriber.signal.arm(), perf_counter()
                new = _events(_id(0), version, 1)
                await store.append_events(_id(0), "Account", new, version)
                return await seen - began

            return await bench.latency(act)


def one_event(bench: Bench) -> tuple[float, ...]:
    """The event with its envelope fields; name and bytes; bytes and envelope to it."""
    owner, note, reference, amount = values()
    aggregate_id = _id(0)
    codec = domain_codec(registry)

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
    data = codec.encode(event)
    stream = StreamName("Account", str(aggregate_id))
    envelope = Envelope(event.event_id.bytes, stream, 7, None)
    restore = codec.restore
    assert restore is not None

    def encode() -> Any:
        return codec.name(event), codec.encode(event)

    return (
        bench.microseconds(construct),
        bench.microseconds(encode),
        bench.microseconds(lambda: restore("Deposited", data, envelope)),
    )


async def live_events(count: int) -> object:
    """Fill a store in memory with streams of 100."""
    store = InMemoryEventStore(event_registry=registry)
    for number in range(count // 100):
        id = _id(number)
        await store.append_events(id, "Account", _events(id, 0, 100, fresh_values), 0)
    return store
