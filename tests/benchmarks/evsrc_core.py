"""evsrc as functions: `transact`, the store's record, `fold`, `subscribe`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any, Literal

from evsrc import Delivery, subscribe
from evsrc.core.codec import Codec, json_codec
from evsrc.core.decider import fold, run
from evsrc.core.event import NewEvent, Recorded, StreamName
from evsrc.core.expectation import NO_STREAM
from evsrc.ports import Appended, EventStore, Write
from evsrc.runtime.ids import new_event
from evsrc.runtime.transact import transact
from evsrc.stores.memory import memory_store
from evsrc.stores.sqlite import sqlite_store

from .bench import PAGE, STREAM, WRITERS, Bench, Signal
from .domain import (
    TYPES,
    Deposit,
    Deposited,
    Event,
    Open,
    account,
    fresh_values,
    values,
)

NAME = "evsrc"
IMPORTS = (
    "from evsrc import Decider, StreamName, json_codec, sqlite_store, subscribe, "
    "transact"
)

codec: Codec[Event] = json_codec(TYPES)


def _deposited() -> NewEvent[Event]:
    return new_event(Deposited(*values()))


def _stream(number: int) -> StreamName:
    return StreamName("account", f"account-{number}")


async def memory_commands(bench: Bench) -> float:
    """`run` three commands on a new stream, append their events in one call."""
    store = memory_store(codec)
    number = iter(range(10**9))

    async def step() -> int:
        stream = _stream(next(number))
        commands = (Open(*values()), Deposit(*values()), Deposit(*values()))
        _, events = run(account, account.initial, commands)
        write = Write(stream, [new_event(e) for e in events], NO_STREAM)
        assert isinstance(await store.append(write), Appended)
        return 3

    return await bench.rate(step)


async def memory_cycles(bench: Bench) -> float:
    """`transact` ten commands on a new stream: each loads, decides and appends."""
    store = memory_store(codec)
    number = iter(range(10**9))

    async def step() -> int:
        stream = _stream(next(number))
        await transact(store, account, stream, Open(*values()))
        for _ in range(STREAM - 1):
            await transact(store, account, stream, Deposit(*values()))
        return STREAM

    return await bench.rate(step)


async def _rehydrate(bench: Bench, store: EventStore[Event], count: int) -> float:
    stream = _stream(0)

    async def step() -> int:
        loaded = await store.load_events(stream)
        state = fold(account, loaded.events)
        assert state.events == count
        return count

    return await bench.rate(step)


async def memory_rehydrate(bench: Bench) -> float:
    """`load_events` and `fold` of a stream of 1,000."""
    store = memory_store(codec)
    await store.append(Write(_stream(0), [_deposited() for _ in range(1000)], 0))
    return await _rehydrate(bench, store, 1000)


async def _fill_stream(store: EventStore[Event], count: int) -> None:
    for start in range(0, count, 500):
        new = [_deposited() for _ in range(500)]
        await store.append(Write(_stream(0), new, start))


async def _one_stream(count: int, path: str) -> None:
    async with await sqlite_store(path, codec, synchronous="NORMAL") as store:
        await _fill_stream(store, count)


async def _sqlite_rehydrate(bench: Bench, count: int) -> float:
    path = await bench.prepared(f"core-{count}", partial(_one_stream, count))
    async with await sqlite_store(path, codec) as store:
        return await _rehydrate(bench, store, count)


async def sqlite_rehydrate_1000(bench: Bench) -> float:
    """`load_events` and `fold` of a stream of 1,000."""
    return await _sqlite_rehydrate(bench, 1000)


async def sqlite_rehydrate_10000(bench: Bench) -> float:
    """`load_events` and `fold` of a stream of 10,000."""
    return await _sqlite_rehydrate(bench, 10_000)


async def _fill_log(store: EventStore[Event], events: int) -> None:
    for first in range(0, events // STREAM, 50):
        writes = [
            Write(_stream(n), [_deposited() for _ in range(STREAM)], 0)
            for n in range(first, first + 50)
        ]
        await store.append(*writes)


async def _log(events: int, path: str) -> None:
    async with await sqlite_store(path, codec, synchronous="NORMAL") as store:
        await _fill_log(store, events)


def _prepared_log(bench: Bench) -> Awaitable[str]:
    return bench.prepared("core-log", partial(_log, bench.events))


async def sqlite_load(bench: Bench) -> float:
    """`load_events` and `fold` of a random stream of the log."""
    draw = random.Random(1)
    async with await sqlite_store(await _prepared_log(bench), codec) as store:

        async def step() -> int:
            stream = _stream(draw.randrange(bench.events // STREAM))
            loaded = await store.load_events(stream)
            assert fold(account, loaded.events).events == STREAM
            return 1

        return await bench.rate(step)


async def _append_to(bench: Bench, store: EventStore[Event], size: int) -> float:
    versions = dict.fromkeys(range(100), 0)
    draw = random.Random(2)

    async def step() -> int:
        number = draw.randrange(100)
        new = [_deposited() for _ in range(size)]
        write = Write(_stream(number), new, versions[number])
        assert isinstance(await store.append(write), Appended)
        versions[number] += size
        return size

    return await bench.rate(step)


async def _append(
    bench: Bench, size: int, synchronous: Literal["FULL", "NORMAL"]
) -> float:
    store = await sqlite_store(bench.file(), codec, synchronous=synchronous)
    async with store:
        return await _append_to(bench, store, size)


async def sqlite_append_full(bench: Bench) -> float:
    """One event a call, at its expected version, to one of 100 streams."""
    return await _append(bench, 1, "FULL")


async def sqlite_append_normal(bench: Bench) -> float:
    """The same, synchronous=NORMAL."""
    return await _append(bench, 1, "NORMAL")


async def sqlite_append_100(bench: Bench) -> float:
    """A hundred events a call, to one of 100 streams."""
    return await _append(bench, 100, "FULL")


def _writing(store: EventStore[Event], first: int) -> Callable[[], Awaitable[int]]:
    """Give a step of 32 writers; their streams are numbered from *first* on."""
    rounds = iter(range(10**9))

    async def write(number: int, start: int) -> None:
        for version in range(start, start + 5):
            write = Write(_stream(number), [_deposited()], version)
            assert isinstance(await store.append(write), Appended)

    async def step() -> int:
        start = next(rounds) * 5
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + WRITERS):
                group.create_task(write(number, start))
        return WRITERS * 5

    return step


async def _writers(bench: Bench, largest_commit: int) -> float:
    store = await sqlite_store(bench.file(), codec, largest_commit=largest_commit)
    async with store:
        return await bench.rate(_writing(store, 0))


async def sqlite_writers(bench: Bench) -> float:
    """32 tasks, each appends one event after the other to a stream of its own."""
    return await _writers(bench, 500)


async def sqlite_writers_alone(bench: Bench) -> float:
    """The same without group commit: `largest_commit=1`."""
    return await _writers(bench, 1)


async def _read_log(bench: Bench, store: EventStore[Event]) -> float:
    seen = 0

    async def handle(recorded: Recorded[Event]) -> None:
        nonlocal seen
        seen += recorded.event.amount is not None

    began, after, head = bench.start(), 0, 1
    while after < head:
        page = await store.read_all(after=after, limit=PAGE)
        for recorded in page.events:
            await handle(recorded)
        after, head = page.reached, page.head
    passed = bench.clock() - began
    assert seen == bench.events
    return seen / passed


async def sqlite_log(bench: Bench) -> float:
    """Pages of 1,000 from `read_all`, each event to an async handler."""
    async with await sqlite_store(await _prepared_log(bench), codec) as store:
        return await _read_log(bench, store)


async def _catch_up(bench: Bench, store: EventStore[Event]) -> float:
    seen = 0

    async def handle(_: Recorded[Event]) -> None:
        nonlocal seen
        seen += 1

    await store.checkpoints.delete("catch-up@1")
    began = bench.start()
    async with subscribe(
        store, "catch-up@1", handle, Delivery(page=PAGE)
    ) as subscription:
        await subscription.caught_up()
    passed = bench.clock() - began
    saved = await store.checkpoints.load("catch-up@1")
    assert seen == bench.events
    assert saved is not None
    assert saved.position == await store.head()
    return seen / passed


async def sqlite_catch_up(bench: Bench) -> float:
    """`subscribe` from the beginning, the store's checkpoints, pages of 1,000."""
    async with await sqlite_store(await _prepared_log(bench), codec) as store:
        return await _catch_up(bench, store)


async def _live(
    bench: Bench, store: EventStore[Event], other: EventStore[Event]
) -> tuple[float, ...]:
    """Append to one store, subscribe to the other (the same, or its database)."""
    signal = Signal()
    versions = iter(range(10**9))

    async def handle(_: Recorded[Event]) -> None:
        signal.fire()

    async with subscribe(other, "live@1", handle) as subscription:
        await subscription.caught_up()

        async def act() -> float:
            write = Write(_stream(0), [_deposited()], next(versions))
            seen, began = signal.arm(), perf_counter()
            await store.append(write)
            return await seen - began

        return await bench.latency(act)


async def sqlite_live(bench: Bench) -> tuple[float, ...]:
    """From the call of `append` to the handler of a subscription that is live."""
    async with await sqlite_store(bench.file(), codec) as store:
        return await _live(bench, store, store)


def one_event(bench: Bench) -> tuple[float, ...]:
    """The event with its id; its checked name and bytes; bytes to event."""
    fields = values()
    event = Deposited(*fields)
    data = codec.encode(event)

    def encode() -> Any:
        return codec.name(event), codec.encode(event)

    return (
        bench.microseconds(lambda: new_event(Deposited(*fields))),
        bench.microseconds(encode),
        bench.microseconds(lambda: codec.decode("deposited", data)),
    )


async def live_events(count: int) -> object:
    """Fill a store in memory with streams of 100."""
    store = memory_store(codec)
    for number in range(count // 100):
        fresh = [new_event(Deposited(*fresh_values())) for _ in range(100)]
        await store.append(Write(_stream(number), fresh, 0))
    return store
