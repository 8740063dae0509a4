"""Workers in one process, over every store: who has what, and what is delivered."""

from __future__ import annotations

import ast
import asyncio
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from evsrc import (
    ANY,
    Delivery,
    LeaseLostError,
    NewEvent,
    Recorded,
    Stop,
    StoreUnavailableError,
    StreamName,
    SubscriptionConfigError,
    SubscriptionError,
    SubscriptionStateError,
    Worker,
    Write,
    memory_store,
    partition_of,
    work,
)
from evsrc.core.errors import StoreClosedError
from evsrc.ports import Checkpoint, EventStore, SaveCheckpoint
from evsrc.runtime import agreement, leased, membership, pages, workers
from evsrc.runtime.delivery import State
from evsrc.testing import CODEC, Fact, run_virtually
from tests.conftest import on_the_loops_clock

Store = EventStore[Any]
LEASE = timedelta(seconds=6)  # with these beats a machine that is slow loses none
SHORT = timedelta(seconds=2)  # where it has to expire
LONG = timedelta(seconds=60)


@pytest.fixture(autouse=True)
def short_beats(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Look five times a second, where time is real."""
    if "store" in request.fixturenames:
        monkeypatch.setattr(workers, "_BEATS", 30)


class Handled:
    """What the handlers of all workers got."""

    def __init__(self) -> None:
        self.by: defaultdict[str, list[Recorded[Any]]] = defaultdict(list)
        self.all: list[Recorded[Any]] = []
        self.positions: set[int] = set()
        self.more = asyncio.Condition()

    def of(self, owner: str) -> Callable[[Recorded[Any]], Any]:
        async def handle(recorded: Recorded[Any]) -> None:
            self.by[owner].append(recorded)
            self.all.append(recorded)
            self.positions.add(recorded.position)
            async with self.more:
                self.more.notify_all()

        return handle

    async def until(self, count: int) -> None:
        """Return when so many different events were handled."""
        async with asyncio.timeout(30), self.more:
            await self.more.wait_for(lambda: len(self.positions) >= count)

    def check(self, count: int) -> None:
        """See that all were handled once, in order per stream."""
        assert len(self.all) == len(self.positions) == count
        versions: dict[StreamName, int] = {}
        for recorded in self.all:
            assert recorded.version == versions.get(recorded.stream, 0) + 1
            versions[recorded.stream] = recorded.version


class Stuck:
    """A handler that stays in its first event until it is let go, or cancelled."""

    def __init__(self, handled: Handled, owner: str, *, stubborn: bool = False) -> None:
        self.handle = handled.of(owner)
        self.stubborn = stubborn
        self.inside = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, recorded: Recorded[Any]) -> None:
        self.inside.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            if not self.stubborn:
                raise
        await self.handle(recorded)


class Away:
    """A store whose leases cannot be reached while it is away, or stalled."""

    def __init__(self, store: Store) -> None:
        self.kept = store
        self.away = False
        self.answers: asyncio.Event | None = None
        self.only: str | None = None
        self.latency = 0.0
        kept = store.leases
        self.store = replace(
            store,
            leases=replace(
                kept,
                **{
                    port: self.unless_away(port, getattr(kept, port))
                    for port in ("acquire", "renew", "list", "release")
                },
            ),
        )

    def unless_away(self, port: str, call: Any) -> Any:
        async def checked(*arguments: Any) -> Any:
            if self.away:
                raise StoreUnavailableError("it is away")
            if self.answers is not None and self.only in (None, port):
                await self.answers.wait()
            await asyncio.sleep(self.latency)
            return await call(*arguments)

        return checked

    @contextmanager
    def gone(self) -> Generator[None]:
        """Be away, for as long as the block runs."""
        self.away = True
        yield
        self.away = False

    @contextmanager
    def stalled(self, only: str | None = None, *, on: bool) -> Generator[None]:
        """Answer nothing; afterwards what was asked meanwhile (*on*), or never."""
        self.answers, self.only = (answers := asyncio.Event()), only
        yield
        self.answers = None
        if on:
            answers.set()


def new(n: int) -> NewEvent[Any]:
    return NewEvent(Fact(n), uuid4())


async def fill(store: Store, count: int, streams: int = 40) -> None:
    """Append *count* events to *streams* streams in turn."""
    for first in range(0, count, streams):
        numbers = range(first, min(first + streams, count))
        await store.append(
            *(Write(StreamName("s", str(n % streams)), [new(n)], ANY) for n in numbers)
        )


def two(
    store: Store, handled: Handled, partitions: int, lease: timedelta
) -> list[Worker[Any]]:
    """Make the workers a and b."""
    options = {"partitions": partitions, "lease": lease}
    return [work(store, "w", handled.of(o), owner=o, **options) for o in "ab"]


async def shares(*among: Worker[Any]) -> list[int]:
    """Give how many partitions each has, once all have settled."""
    for worker in among:
        await worker.balanced()
    return [len(worker.status().partitions) for worker in among]


async def steal(store: Store, name: str) -> None:
    """Take a lease away from whoever has it."""
    (lease,) = await store.leases.list(name)
    await store.leases.release(lease)
    assert await store.leases.acquire(name, "thief", SHORT) is not None


async def test_one_delivers_and_the_others_stand_by(store: Store) -> None:
    """Without partitions one of three has it all; one that leaves is followed."""
    handled = Handled()
    three = [work(store, "w", handled.of(o), owner=o, lease=LEASE) for o in "abc"]
    for worker in three:
        await worker.start()
    assert sorted(await shares(*three)) == [0, 0, 1]
    for n in range(1, 4):
        await fill(store, 100)
        await handled.until(n * 100)
        assert len(handled.by) == n
        (active,) = [w for w in three if w.status().partitions]
        await active.stop()
        saved = await store.checkpoints.load("w")
        assert saved == Checkpoint("w", await store.head())
    handled.check(300)


async def test_partitions_are_spread_and_move_with_the_workers(store: Store) -> None:
    """Who joins gets its share, who leaves gives it up; nothing is lost or doubled."""
    handled = Handled()
    a, b, c = (
        work(store, "w", handled.of(o), owner=o, partitions=8, lease=LEASE)
        for o in "abc"
    )
    async with a:
        await fill(store, 100)
        assert await shares(a) == [8]
        async with b:
            await fill(store, 100)
            assert await shares(a, b) == [4, 4]
            async with c:
                await fill(store, 100)
                await handled.until(300)
                assert sorted(await shares(a, b, c)) == [2, 3, 3]
                members = b.status().members
                assert set(members) == {"a", "b", "c"}
                assert sorted(n for had in members.values() for n in had) == [*range(8)]
                await fill(store, 100)
                await handled.until(400)
            assert await shares(a, b) == [4, 4]
        await fill(store, 100)
        assert await shares(a) == [8]
        await handled.until(500)
        assert a.status().rebalances >= 4
    handled.check(500)
    assert set(handled.by) == {"a", "b", "c"}


async def test_a_stream_stays_in_its_partition(store: Store) -> None:
    """A worker gets the events of the streams of its partitions, and no others."""
    handled = Handled()
    a, b = two(store, handled, 6, LEASE)
    async with a, b:
        assert await shares(a, b) == [3, 3]
        members = b.status().members
        await fill(store, 200)
        await handled.until(200)
    handled.check(200)
    for owner, seen in handled.by.items():
        there = {partition_of(recorded.stream, 6) for recorded in seen}
        assert there == set(members[owner])


async def test_the_number_of_partitions_is_fixed(store: Store) -> None:
    """Another number is refused, before anything is delivered."""
    handled = Handled()
    async with work(store, "w", handled.of("a"), owner="a", partitions=4):
        pass
    for wrong in (1, 3):
        worker = work(store, "w", handled.of("b"), owner="b", partitions=wrong)
        with pytest.raises(SubscriptionConfigError, match=f"4 partitions, not {wrong}"):
            await worker.start()
    async with work(store, "w", handled.of("b"), owner="b", partitions=4) as b:
        assert await shares(b) == [4]


async def test_of_two_first_workers_one_fixes_the_number(store: Store) -> None:
    """Two that start at once with different numbers do not both go on."""
    handled = Handled()
    both = [
        work(store, "w", handled.of(str(n)), owner=str(n), partitions=n) for n in (2, 3)
    ]
    outcomes = await asyncio.gather(*(w.start() for w in both), return_exceptions=True)
    refused = [isinstance(outcome, SubscriptionConfigError) for outcome in outcomes]
    assert sorted(refused) == [False, True], outcomes
    for worker in both:
        await worker.stop()


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize(
    ("start", "first"), [("beginning", 1), ("end", 31), (12, 13), ("checkpoint", 21)]
)
async def test_where_it_starts(start: Any, first: int, partitions: int) -> None:
    """`start` counts once; "checkpoint" is that of the plain subscription before."""
    store = memory_store(CODEC)
    handled = Handled()
    await fill(store, 30)
    await store.checkpoints.save(SaveCheckpoint("w", 20))
    for last in (60, 90):
        worker = work(
            store,
            "w",
            handled.of("a"),
            Delivery(start=start),
            owner="a",
            partitions=partitions,
        )
        async with worker:
            await fill(store, 30)
            await handled.until(last - first + 1)
    assert sorted(r.position for r in handled.all) == list(range(first, 91))


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_stolen_lease_moves_no_checkpoint(store: Store, stubborn: bool) -> None:
    """The handler is cancelled; one that goes on all the same is not checkpointed."""
    await fill(store, 10)
    handled = Handled()
    stuck = Stuck(handled, "a", stubborn=stubborn)
    async with work(store, "w", stuck, owner="a", lease=LEASE) as a:
        await stuck.inside.wait()
        await steal(store, "w#0")
        async with asyncio.timeout(30):
            await stuck.cancelled.wait()
        assert await shares(a) == [1]  # the thief let it expire
        assert await store.checkpoints.load("w") is None
        assert len(handled.all) == int(stubborn)
        stuck.go.set()
        await handled.until(10)
    assert len(handled.all) == 10 + stubborn
    assert await store.checkpoints.load("w") == Checkpoint("w", 10)


async def test_a_checkpoint_after_a_theft_is_refused(store: Store) -> None:
    """A worker that has not noticed yet that its lease was stolen cannot commit."""
    await fill(store, 10)
    handled, stuck = Handled(), Stuck(Handled(), "a")
    async with work(store, "w", stuck, owner="a", lease=LONG) as a:
        await stuck.inside.wait()
        await steal(store, "w#0")
        stuck.go.set()  # it handles the rest, and would save the checkpoint
        (partition,) = a.status().partitions
        async with asyncio.timeout(30):
            while not isinstance(partition.subscription.error, LeaseLostError):
                await store.changed(
                    await store.head(), timeout=timedelta(milliseconds=5)
                )
                (partition,) = a.status().partitions
        assert partition.subscription.state is State.FAILED
        assert not a.healthy
    assert await store.checkpoints.load("w") is None
    async with work(store, "w", handled.of("b"), owner="b", lease=LEASE):
        await handled.until(10)
    handled.check(10)


async def test_while_the_store_is_away_nothing_is_handled(store: Store) -> None:
    """When the lease must be over the handler is cancelled; later it starts anew."""
    await fill(store, 10)
    handled, reach = Handled(), Away(store)
    stuck = Stuck(handled, "a")
    async with work(reach.store, "w", stuck, owner="a", lease=SHORT) as a:
        await stuck.inside.wait()
        with reach.gone():
            async with asyncio.timeout(30):
                await stuck.cancelled.wait()
            status = a.status()
            assert status.state is State.RETRYING
            assert isinstance(status.error, StoreUnavailableError)
            stuck.go.set()
        await handled.until(10)
        await a.balanced()
        assert a.status().error is None
        assert a.healthy
    handled.check(10)


async def test_a_worker_that_dies_is_replaced(store: Store) -> None:
    """Its leases were not released: they expire, and the others take over."""
    handled = Handled()
    a, b = two(store, handled, 4, SHORT)
    async with a, b:
        assert await shares(a, b) == [2, 2]
        assert a._task is not None
        a._task.cancel()
        await asyncio.wait([a._task])
        await fill(store, 100)
        await handled.until(100)
        assert await shares(b) == [4]
        with pytest.raises(SubscriptionError, match="'a' stopped"):
            await a.balanced()
    handled.check(100)


async def test_a_worker_is_replaced_by_one_of_its_name(store: Store) -> None:
    """A paused worker whose successor is there already ends, and says why."""
    handled = Handled()
    await fill(store, 10)
    same = {"owner": "same", "partitions": 4, "lease": LEASE}
    old = work(store, "w", handled.of("old"), **same)
    new = work(store, "w", handled.of("new"), **same)
    async with old:
        assert await shares(old) == [4]
        async with new:
            with pytest.raises(SubscriptionError, match="each needs an owner") as told:
                await old.balanced()
            assert isinstance(told.value.__cause__, SubscriptionStateError)
            assert old.status().state is State.FAILED
            assert await shares(new) == [4]
            await fill(store, 40)
            await handled.until(50)
    assert len(handled.by["new"]) >= 40


async def test_a_failed_partition_stays_where_it_is(store: Store) -> None:
    """A handler that gives up stops its partition alone, for all to see."""
    handled = Handled()
    handle = handled.of("a")
    bad = StreamName("s", "7")

    async def fails(recorded: Recorded[Any]) -> None:
        if recorded.stream == bad:
            raise ValueError("no")
        await handle(recorded)

    delivery: Delivery[Any] = Delivery(on_failure=lambda _: Stop())
    options = {"partitions": 4, "lease": LEASE}
    async with work(store, "w", fails, delivery, owner="a", **options) as a:
        await fill(store, 80)
        left = partition_of(bad, 4)
        others = [
            n for n in range(40) if partition_of(StreamName("s", str(n)), 4) != left
        ]
        await handled.until(2 * len(others))
        while a.status().error is None:
            await a._next_sight()
        await a.balanced()
        status = a.status()
        states = [each.subscription.state for each in status.partitions]
        assert [n for n, s in enumerate(states) if s is State.FAILED] == [left]
        assert isinstance(status.error, SubscriptionError)
        assert "ValueError('no')" in str(status.error)
        assert status.partitions[left].subscription.lag
        assert status.state is State.LIVE
        assert not a.healthy
    async with work(store, "w", handle, owner="b", **options):
        await handled.until(80)
    handled.check(80)


async def test_an_error_of_the_store_stops_no_partition(store: Store) -> None:
    """A read that fails is tried again in a while."""
    await fill(store, 10)
    handled, failing = Handled(), True

    async def read_all(*arguments: Any, **options: Any) -> Any:
        if failing:
            failed.set()
            raise StoreUnavailableError("it is away")
        return await store.read_all(*arguments, **options)

    failed = asyncio.Event()
    unread = replace(store, read_all=read_all)
    async with work(unread, "w", handled.of("a"), owner="a", lease=LEASE) as a:
        await failed.wait()
        await a.balanced()
        failing = False
        await handled.until(10)
        await a.balanced()
        assert a.healthy
    handled.check(10)


def test_a_handler_may_take_longer_than_a_lease() -> None:
    """Its lease is renewed meanwhile, also while it is handed over or stopped."""

    async def stop_late() -> None:
        store, handled = far_away().store, Handled()
        await fill(store, 1)
        stuck = Stuck(handled, "a")
        a, b = (
            work(store, "w", handle, owner=o, lease=LONG)
            for o, handle in (("a", stuck), ("b", handled.of("b")))
        )
        async with a:
            await stuck.inside.wait()
            async with b:
                stopping = asyncio.create_task(a.stop(10 * LONG))
                await asyncio.sleep(3 * LONG.total_seconds())
                stuck.go.set()
                await stopping
                assert await shares(b) == [1]
                await fill(store, 9)
                await handled.until(10)
        handled.check(10)
        assert [len(handled.by[owner]) for owner in "ab"] == [1, 9]

    run_virtually(stop_late())


Trouble = Callable[[Away], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("trouble", "part"),
    [
        (lambda reach: reach.stalled(on=True), 0.5),
        (lambda reach: reach.stalled(on=False), 0.3),
        (lambda reach: reach.gone(), 0.3),
        (lambda reach: reach.stalled("list", on=True), 3),
        (lambda reach: reach.stalled("list", on=False), 3),
    ],
)
def test_a_stall_costs_no_lease(trouble: Trouble, part: float) -> None:
    """Not one of half a lease, nor a third where what was asked is never answered.

    However long only the look at the others takes, leases are renewed.
    """
    for n in range(30):
        handled = Handled()
        run_virtually(through(trouble, handled, n / 30, part))
        handled.check(20)


def far_away() -> Away:
    """Make a store that does what it is told to, on the loop's clock."""
    return Away(on_the_loops_clock())


async def through(trouble: Trouble, handled: Handled, at: float, part: float) -> None:
    """Work while there is *trouble*, *at* so many leases, for *part* of one."""
    reach, lease = far_away(), LONG.total_seconds()
    worker = work(
        reach.store, "w", handled.of("a"), owner="a", partitions=2, lease=LONG
    )
    async with worker:
        await worker.balanced()
        had = [(p.partition, p.token) for p in worker.status().partitions]
        await asyncio.sleep(at * lease)
        await fill(reach.store, 10)
        with trouble(reach):
            await asyncio.sleep(part * lease)
        await fill(reach.store, 10)
        await asyncio.sleep(3 * lease)
        assert [(p.partition, p.token) for p in worker.status().partitions] == had
        assert worker.healthy


@pytest.mark.parametrize(("port", "part"), [("release", 2), (None, 0.5)])
def test_leases_are_kept_while_a_seat_is_not_given_up(
    port: str | None, part: float
) -> None:
    """Who stops finishes the event in hand, also if the store leaves it waiting."""

    async def leave(at: float) -> None:
        reach, handled, lease = far_away(), Handled(), LONG.total_seconds()
        await fill(reach.store, 1)
        stuck = Stuck(handled, "a")
        worker = work(reach.store, "w", stuck, owner="a", lease=LONG)
        await worker.start()
        await stuck.inside.wait()
        await asyncio.sleep(at * lease)
        with reach.stalled(port, on=True):
            stopping = asyncio.create_task(worker.stop(10 * LONG))
            await asyncio.sleep(part * lease)
        await asyncio.sleep(lease)
        stuck.go.set()
        await stopping
        assert not stuck.cancelled.is_set()
        handled.check(1)
        assert await reach.store.checkpoints.load("w") == Checkpoint("w", 1)

    for n in range(30):
        run_virtually(leave(n / 30))


@pytest.mark.parametrize("latency", [0.02, 0.15])
def test_a_slow_store_is_put_up_with(latency: float) -> None:
    """All is taken, kept and handled, if each answer takes a seventh of a lease."""

    async def slow() -> None:
        reach, handled = far_away(), Handled()
        reach.latency = latency * LONG.total_seconds()
        a, b = two(reach.store, handled, 6, LONG)
        async with a, b:
            await fill(reach.store, 40)
            for worker in (a, b):
                await worker.balanced(30 * LONG)
            had = [p.token for w in (a, b) for p in w.status().partitions]
            await fill(reach.store, 40)
            await asyncio.sleep(10 * LONG.total_seconds())
            assert [p.token for w in (a, b) for p in w.status().partitions] == had
            assert len(had) == 6
        handled.check(80)

    run_virtually(slow())


def test_a_stall_costs_none_of_many_leases() -> None:
    """Each renewal is asked for again before the next one."""

    async def many(at: float) -> None:
        reach, handled = far_away(), Handled()
        reach.latency = LONG.total_seconds() / 120
        worker = work(
            reach.store, "w", handled.of("a"), owner="a", partitions=64, lease=LONG
        )
        async with worker:
            await worker.balanced(30 * LONG)
            had = [p.token for p in worker.status().partitions]
            await asyncio.sleep(at * LONG.total_seconds())
            with reach.stalled(on=True):
                await asyncio.sleep(0.5 * LONG.total_seconds())
            await asyncio.sleep(10 * LONG.total_seconds())
            assert [p.token for p in worker.status().partitions] == had

    for n in range(10):
        run_virtually(many(n / 30))


def test_what_cannot_be_taken_costs_nothing_that_is_there() -> None:
    """A lease that is asked for in vain keeps no other one from being renewed."""

    async def take_over() -> None:
        reach, handled = far_away(), Handled()
        a, b = two(reach.store, handled, 4, LONG)
        async with a:
            async with b:
                for worker in (a, b):
                    await worker.balanced(10 * LONG)
                had = [p.token for p in a.status().partitions]
            with reach.stalled("acquire", on=False):
                await asyncio.sleep(3 * LONG.total_seconds())
                assert [p.token for p in a.status().partitions] == had
            await a.balanced(10 * LONG)
            assert len(a.status().partitions) == 4

    run_virtually(take_over())


def test_a_release_that_is_not_answered_expires() -> None:
    """The partition goes on with the other worker; a stop ends."""

    async def hand_over() -> None:
        reach, handled = far_away(), Handled()
        a, b = two(reach.store, handled, 4, LONG)
        async with asyncio.timeout(20 * LONG.total_seconds()), a:
            assert await shares(a) == [4]
            with reach.stalled("release", on=False):
                await b.start()
                await asyncio.sleep(3 * LONG.total_seconds())
            assert [len(w.status().partitions) for w in (a, b)] == [2, 2]
            await fill(reach.store, 40)
            await handled.until(40)
            with reach.stalled("release", on=False):
                await b.stop(2 * LONG)
            assert b._task is not None
            assert b._task.done()
        handled.check(40)

    run_virtually(hand_over())


def test_the_one_that_was_replaced_ends_also_if_it_is_cut_off() -> None:
    """It knows that it had a seat when it looks again, and leaves that to the other."""

    async def replace_it() -> None:
        old_reach, handled = far_away(), Handled()
        store = old_reach.kept
        old, new = (
            work(one, "w", handled.of("x"), owner="same", partitions=2, lease=LONG)
            for one in (old_reach.store, store)
        )
        await old.start()
        await old.balanced()
        await new.start()
        await new.balanced()
        with old_reach.stalled("list", on=True):
            await asyncio.sleep(0.7 * LONG.total_seconds())
        await asyncio.sleep(3 * LONG.total_seconds())
        assert (old.state, new.state) == (State.FAILED, State.LIVE)
        await new.stop()

    run_virtually(replace_it())


@pytest.mark.parametrize("late", [0.3, 0.4, 0.5, 0.9, 1.1])
def test_a_seat_that_was_given_up_on_is_not_somebody_elses(late: float) -> None:
    """An answer that comes late is its own."""

    async def sit_down() -> None:
        store, handled, tasks = far_away().store, Handled(), set[Any]()

        async def acquire(name: str, *rest: Any) -> Any:
            delay = 0 if tasks else late * LONG.total_seconds()

            async def taken() -> Any:
                await asyncio.sleep(delay)
                return await store.leases.acquire(name, *rest)

            taking = asyncio.create_task(taken())
            tasks.add(taking)
            return await asyncio.shield(taking)

        slow = replace(store, leases=replace(store.leases, acquire=acquire))
        async with work(slow, "w", handled.of("a"), owner="a", lease=LONG) as worker:
            await asyncio.sleep(5 * LONG.total_seconds())
            assert worker.state is State.LIVE
            assert await shares(worker) == [1]
            async with work(store, "w", handled.of("b"), owner="a", lease=LONG) as new:
                with pytest.raises(SubscriptionError, match="each needs an owner"):
                    await worker.balanced()
                assert await shares(new) == [1]

    run_virtually(sit_down())


async def test_stop_returns_in_time(store: Store) -> None:
    """A handler that does not end is cancelled; its event comes again."""
    await fill(store, 10)
    handled = Handled()
    stuck = Stuck(handled, "a")
    a = work(store, "w", stuck, owner="a", lease=LONG)
    await a.start()
    await stuck.inside.wait()
    async with asyncio.timeout(10):
        await a.stop(timedelta(seconds=0.5))
    assert stuck.cancelled.is_set()
    assert a.status().state is State.STOPPED
    async with work(store, "w", handled.of("b"), owner="b"):
        await handled.until(10)  # at once: the lease was released
    handled.check(10)


async def test_a_closed_store_ends_it(store: Store) -> None:
    """There is nothing to wait for."""
    handled = Handled()
    worker = work(store, "w", handled.of("a"), owner="a", lease=LEASE)
    async with worker:
        await worker.balanced()
        await store.close()
        with pytest.raises(SubscriptionError, match="StoreClosedError"):
            await worker.balanced()
    status = worker.status()
    assert status.state is State.FAILED
    assert isinstance(status.error, StoreClosedError)


async def test_seats_are_used_again(store: Store) -> None:
    """Workers that come and go leave no more leases behind than there were at once."""
    handled = Handled()
    for n in range(5):
        worker = work(store, "w", handled.of("x"), owner=f"pod-{n}", lease=LEASE)
        async with worker:
            await worker.balanced()
            names = [lease.name for lease in await store.leases.list("w#")]
            assert names == ["w#0", "w#worker/0"]
    assert await store.leases.list("w#") == ()


async def test_leases_of_others_are_left_alone(store: Store) -> None:
    """One whose name begins like a worker's does not disturb the worker."""
    handled = Handled()
    names = ["w#nightly", "w#1.5", "w#", "w#-1", "w#01", "w#2026"]
    for name in names:
        assert await store.leases.acquire(name, "cron", LONG) is not None
    await fill(store, 10)
    async with work(store, "w", handled.of("x"), owner="a", lease=LEASE) as worker:
        await worker.balanced()
        await handled.until(10)
    handled.check(10)
    left = await store.leases.list("w#")
    assert {(lease.name, lease.owner) for lease in left} == {
        (name, "cron") for name in names
    }


@pytest.mark.parametrize("partitions", [4, 16])
async def test_the_log_is_read_once_for_all_partitions(
    store: Store, partitions: int
) -> None:
    """A worker reads little more than the log, however many partitions it has."""
    count, read = 4000, 0
    await fill(store, count)
    handled = Handled()

    async def read_all(*arguments: Any, **options: Any) -> Any:
        nonlocal read
        page = await store.read_all(*arguments, **options)
        read += len(page.events)
        return page

    counted = replace(store, read_all=read_all)
    delivery: Delivery[Any] = Delivery(page=100)
    async with work(
        counted, "w", handled.of("a"), delivery, owner="a", partitions=partitions
    ):
        await handled.until(count)
    handled.check(count)
    print(f"read {read} events for {count} in {partitions} partitions")
    assert read < 1.5 * count


@pytest.mark.parametrize("size", [1, 700, 20_000])
async def test_few_pages_are_kept(size: int) -> None:
    """Partitions that are far apart are read for separately; memory is bounded."""
    store, count = memory_store(CODEC), 25_000
    await fill(store, count)
    shared, most = pages.SharedPages(store.read_all, 4), 0
    for number in (0, 1):  # the second finds what is left of the pages of the first
        positions, after = [], 0 if size > 1 else count - 500
        first = after
        read = shared.of(number)
        while after < count:
            page = await read(after=after, limit=size)
            positions += [recorded.position for recorded in page.events]
            after = page.reached
            most = max(most, shared.events)
            assert len(shared._kept) <= 64
        whole = await store.read_all(after=first, limit=count)
        ours = [r for r in whole.events if partition_of(r.stream, 4) == number]
        assert positions == [recorded.position for recorded in ours]
    assert most <= max(10_000, size)


@pytest.mark.parametrize(
    ("problem", "options"),
    [
        ("'#'", {"name": "w#1"}),
        ("not empty", {"name": ""}),
        ("an owner", {"owner": ""}),
        ("at least 1 partition", {"partitions": 0}),
        ("a lease lasts", {"lease": timedelta(0)}),
        (
            "in the store itself",
            {"delivery": Delivery(checkpoints=memory_store().checkpoints)},
        ),
    ],
)
def test_arguments_that_make_no_sense(problem: str, options: dict[str, Any]) -> None:
    """They are refused before anything is started."""
    given = {"store": memory_store(), "name": "w", "handle": print, "owner": "a"}
    with pytest.raises(SubscriptionConfigError, match=problem):
        work(**(given | options))


async def test_a_worker_starts_once() -> None:
    """A second start is refused; one that never started can be stopped."""
    worker = work(memory_store(), "w", Handled().of("a"), owner="a")
    async with worker:
        with pytest.raises(SubscriptionStateError, match="started before"):
            await worker.start()
    never = work(memory_store(), "w", Handled().of("a"), owner="a")
    await never.stop()
    assert never.status().state is State.STOPPED


@pytest.mark.parametrize("module", [agreement, leased, membership, pages, workers])
def test_no_clock_of_the_worker_is_read(module: Any) -> None:
    """Workers whose clocks differ behave the same: they ask none but the event loop's."""
    tree = ast.parse(Path(module.__file__).read_text())
    names = {
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", ""), *(a.name for a in node.names)]
    }
    assert not names & {"time", "calendar"}
    assert names & {"datetime", "date"} <= {"datetime"}, "only to import timedelta"
    words = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not words & {"now", "utcnow", "today", "monotonic", "perf_counter", "until"}
