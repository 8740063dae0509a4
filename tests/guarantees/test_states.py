"""C2, and what transactions promise: no state is kept that was not recorded."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from msgspec import Struct

from evsrc import (
    ANY,
    Decider,
    NewEvent,
    OptimisticLockError,
    Snapshot,
    Snapshotting,
    StateCache,
    StreamName,
    Write,
    every,
    fold,
    json_codec,
    query,
    transact,
)
from evsrc.ports import Conflict, EventStore, SaveSnapshot
from tests.conftest import OpenStore


class Added(Struct, frozen=True):
    """Something was added."""

    amount: int


class TooMuch(Exception):
    """The domain refuses."""


def decide(total: int, amount: int) -> list[Added]:
    if total + amount > 1000:
        raise TooMuch(amount)
    return [Added(amount)] if amount else []


COUNTER: Decider[int, int, Added] = Decider(decide, lambda s, e: s + e.amount, 0)
CODEC: Any = json_codec({"added": Added})
STREAM = StreamName("counter", "1")
EVERY = Snapshotting(msgspec.json.encode, msgspec.json.Decoder(int).decode, every(1))
Store = EventStore[Any]


@pytest.fixture
async def counter(open_store: OpenStore) -> Any:
    async with await open_store(CODEC) as store:
        yield store


async def rival(store: Store, amount: int) -> None:
    await store.append(Write(STREAM, [NewEvent(Added(amount), uuid4())], ANY))


def interrupted(store: Store, times: int, amount: int = 100) -> Store:
    """Let somebody else append first, this often."""
    left = times

    async def append(*writes: Any, also: Any = ()) -> Any:
        nonlocal left
        if left:
            left -= 1
            await rival(store, amount)
        return await store.append(*writes, also=also)

    return replace(store, append=append)


async def stored_state(store: Store, version: int) -> int:
    events = (await store.load_events(STREAM)).events[:version]
    return fold(COUNTER, events)


async def check_kept(store: Store, cache: StateCache[int]) -> None:
    """What is kept is what the stream says at that version."""
    kept = cache.get(STREAM)
    if kept is not None:
        state, version = kept
        assert version <= (await store.load_events(STREAM)).version
        assert state == await stored_state(store, version)
    snapshot = await store.snapshots.load(str(STREAM))
    if snapshot is not None:
        assert snapshot.version <= (await store.load_events(STREAM)).version
        state = msgspec.json.decode(snapshot.state)
        assert state == await stored_state(store, snapshot.version)


async def test_c2_nothing_uncommitted_is_kept(counter: Store) -> None:
    """Through wins, lost races, refusals and cancellations the kept states are true."""
    cache: StateCache[int] = StateCache()
    looks = 0
    for n in range(60):
        store = interrupted(counter, times=n % 4, amount=1)
        work = asyncio.create_task(
            transact(store, COUNTER, STREAM, n % 3, cache=cache, snapshots=EVERY)
        )
        if n % 5 == 0:
            for _ in range(n % 7):
                await asyncio.sleep(0)
            work.cancel()
        await asyncio.wait([work])
        if not work.cancelled() and (error := work.exception()) is not None:
            assert isinstance(error, OptimisticLockError)
        await check_kept(counter, cache)
        looks += 1
    print(f"C2: {looks} transactions, every kept state is a recorded one")


async def test_c2_saves_run_beside_the_next_transaction(counter: Store) -> None:
    """Many transactions at once on one stream: kept states are recorded states."""
    cache: StateCache[int] = StateCache()

    async def add(amount: int) -> None:
        for _ in range(10):
            await transact(
                counter,
                COUNTER,
                STREAM,
                amount,
                cache=cache,
                snapshots=EVERY,
                attempts=100,
            )
            await check_kept(counter, cache)

    await asyncio.gather(*(add(n) for n in (1, 2, 3)))
    assert await query(counter, COUNTER, STREAM, cache=cache) == (60, 30)


async def test_a_lost_race_reads_the_tail_and_decides_again(counter: Store) -> None:
    """Only what came in between is read, and the decision is made on it."""
    await transact(counter, COUNTER, STREAM, 5)
    loads: list[int] = []

    async def load_events(stream: StreamName, *, after: int = 0) -> Any:
        loads.append(after)
        return await counter.load_events(stream, after=after)

    store = replace(interrupted(counter, times=2), load_events=load_events)
    decided = await transact(store, COUNTER, STREAM, 7)
    assert (decided.state, decided.version, decided.attempts) == (212, 4, 3)
    assert loads == [0, 1, 2]


async def test_attempts_run_out(counter: Store) -> None:
    """After three lost races the error names the versions; nothing was written."""
    with pytest.raises(OptimisticLockError, match="moved under us 3 times") as caught:
        await transact(interrupted(counter, times=3), COUNTER, STREAM, 7)
    assert (caught.value.expected_version, caught.value.actual_version) == (2, 3)
    assert (await counter.load_events(STREAM)).version == 3
    decided = await transact(interrupted(counter, 4, 0), COUNTER, STREAM, 7, attempts=5)
    assert decided.attempts == 5
    with pytest.raises(ValueError, match="at least 1"):
        await transact(counter, COUNTER, STREAM, 7, attempts=0)


async def test_a_refused_command_writes_nothing(counter: Store) -> None:
    """The domain's own exception comes out, and the stream is as it was."""
    with pytest.raises(TooMuch):
        await transact(counter, COUNTER, STREAM, 1001)
    assert await counter.head() == 0


async def test_nothing_to_do_writes_nothing(counter: Store) -> None:
    """A command that leads to no events leaves the log alone."""
    decided = await transact(counter, COUNTER, STREAM, 0)
    assert (decided.events, decided.position, decided.version) == ((), None, 0)
    assert await counter.head() == 0


async def test_a_stale_cached_state_refuses_nobody(counter: Store) -> None:
    """Before a command is refused on a cached state, what came since is read."""
    cache: StateCache[int] = StateCache()
    await transact(counter, COUNTER, STREAM, 900, cache=cache)
    await rival(counter, -500)
    decided = await transact(counter, COUNTER, STREAM, 300, cache=cache)
    assert (decided.state, decided.version) == (700, 3)
    await rival(counter, 300)
    with pytest.raises(TooMuch):
        await transact(counter, COUNTER, STREAM, 1, cache=cache)


async def test_a_cached_state_saves_the_load(counter: Store) -> None:
    """With a cache a transaction on a known stream reads nothing."""
    cache: StateCache[int] = StateCache()
    await transact(counter, COUNTER, STREAM, 5, cache=cache)

    async def no_load(*_: Any, **__: Any) -> Any:
        raise AssertionError("read although the state was known")

    decided = await transact(
        replace(counter, load_events=no_load), COUNTER, STREAM, 6, cache=cache
    )
    assert decided.state == 11


async def test_the_cache_drops_what_was_used_longest_ago() -> None:
    """It keeps as many states as it was told, and never replaces newer by older."""
    cache: StateCache[int] = StateCache(2)
    names = [StreamName("c", str(n)) for n in range(3)]
    cache.put(names[0], 1, 5)
    cache.put(names[1], 2, 5)
    assert cache.get(names[0]) == (1, 5)
    cache.put(names[2], 3, 5)
    assert [cache.get(name) for name in names] == [(1, 5), None, (3, 5)]
    cache.put(names[0], 9, 4)
    assert cache.get(names[0]) == (1, 5)
    assert len(cache) == 2
    with pytest.raises(ValueError, match="makes no sense"):
        StateCache(0)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        Snapshot(b"torn", 3, 1),
        Snapshot(b"999", 3, 2),
        Snapshot(b"999", 99, 1),
        Snapshot(b"6", 3, 1),
    ],
    ids=["none", "torn", "another schema", "ahead of the stream", "good"],
)
async def test_snapshots_never_change_a_state(counter: Store, stored: Any) -> None:
    """Whatever is wrong with a snapshot, the loaded state is that of the events."""
    for amount in (1, 2, 3, 4):
        await rival(counter, amount)
    if stored is not None:
        await counter.snapshots.save(SaveSnapshot(str(STREAM), stored))
    assert await query(counter, COUNTER, STREAM, snapshots=EVERY) == (10, 4)
    decided = await transact(counter, COUNTER, STREAM, 5, snapshots=EVERY)
    assert (decided.state, decided.version) == (15, 5)


async def test_snapshots_are_taken_when_a_multiple_is_crossed(counter: Store) -> None:
    """`every(3)` takes one at the appends that cross a multiple of three, no others."""
    plan = replace_due(EVERY, 3)
    taken = []
    for _ in range(7):
        await transact(counter, COUNTER, STREAM, 1, snapshots=plan)
        snapshot = await counter.snapshots.load(str(STREAM))
        taken.append(None if snapshot is None else snapshot.version)
    assert taken == [None, None, 3, 3, 3, 6, 6]


def replace_due(plan: Snapshotting[int], events: int) -> Snapshotting[int]:
    return Snapshotting(plan.dump, plan.load, every(events))


async def test_c2_a_repeated_append_is_read_back(counter: Store) -> None:
    """Ids that were recorded before: the state given and kept is the recorded one."""
    cache: StateCache[int] = StateCache()
    id = uuid4()

    def same_id(event: Any, metadata: Any) -> Any:
        return NewEvent(event, id, metadata)

    for _ in range(2):
        decided = await transact(
            counter, COUNTER, STREAM, 5, cache=cache, envelop=same_id
        )
        assert (decided.state, decided.version, decided.position) == (5, 1, 1)
        await check_kept(counter, cache)


async def test_a_conflict_is_a_value(counter: Store) -> None:
    """A lost race is not an exception at the port."""
    await rival(counter, 1)
    write = Write(STREAM, [NewEvent(Added(1), uuid4())], 0)
    assert await counter.append(write) == Conflict(STREAM, 0, 1)
