"""What operators see and do: status, liveness, logs; stores that go away; parallel work."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evsrc import (
    ANY,
    AppendOutcomeUnknownError,
    Batched,
    Breaker,
    CheckpointError,
    CorruptionError,
    Delivery,
    Metadata,
    NewEvent,
    Park,
    Query,
    SerializationError,
    Skip,
    Stop,
    StoreUnavailableError,
    StreamName,
    SubscriptionError,
    Transactional,
    Write,
    after_event,
    after_time,
    new_id,
    retry_then,
    subscribe,
)
from evsrc.ports import Checkpoint, EventStore, SaveCheckpoint, Transaction
from evsrc.runtime.delivery import State
from evsrc.testing import Fact, intercepted
from tests.conftest import OpenStore
from tests.guarantees.test_poison import PARK, Handler, until
from tests.guarantees.test_subscriptions import QUICK, SOON, fill

Store = EventStore[Any]
MODEL = StreamName("model", "1")
HOUR = timedelta(hours=1)


class Outage:
    """A store whose functions fail while it is away."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.error: Exception | None = None
        self.refused: Counter[str] = Counter()

    def check(self, name: str) -> None:
        if self.error is not None:
            self.refused[name] += 1
            raise self.error

    def guard(self, name: str, call: Callable[..., Any]) -> Any:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            self.check(name)
            return await call(*args, **kwargs)

        return guarded

    def over(self) -> Store:
        store, kept = self.store, self.store.checkpoints

        @asynccontextmanager
        async def transaction() -> AsyncIterator[Any]:
            self.check("transaction")
            async with store.transaction() as tx:
                yield tx

        return replace(
            store,
            append=self.guard("append", store.append),
            transaction=transaction,
            read_all=self.guard("read", store.read_all),
            changed=self.guard("changed", store.changed),
            head=self.guard("head", store.head),
            checkpoints=replace(
                kept,
                load=self.guard("load", kept.load),
                save=self.guard("save", kept.save),
            ),
        )


def kind_of(handler: Handler, kind: str) -> tuple[Any, int]:
    return handler.of(kind), 4 if kind == "streams" else 1


KINDS = ["events", "batches", "streams", "transactions"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_that_goes_away_is_waited_for(store: Store, kind: str) -> None:
    """Before the start, live, and while parking: it waits, visibly, then goes on."""
    await fill(store, 30)
    outage, handler = Outage(store), Handler({13})
    handle, most = kind_of(handler, kind)
    delivery: Delivery[Any] = Delivery(
        on_failure=PARK, max_streams=most, page=10, poll=timedelta(milliseconds=20)
    )
    outage.error = StoreUnavailableError("away")
    async with subscribe(outage.over(), "w", handle, delivery) as subscription:
        await until(lambda: outage.refused["load"] > 1)
        assert subscription.state is State.RETRYING
        assert not subscription.healthy
        assert subscription.alive
        outage.error = None
        await subscription.wait_for(30, SOON)
        assert subscription.healthy
        outage.error = StoreUnavailableError("away again")
        await until(lambda: outage.refused["read"] + outage.refused["changed"] > 2)
        status = subscription.status()
        assert isinstance(status.error, StoreUnavailableError)
        assert status.state is State.RETRYING
        await fill(store, 10, "more")
        outage.error = None
        await subscription.caught_up(SOON)
        status = subscription.status()
        assert (status.error, status.healthy) == (None, True)
        assert isinstance(status.last_error, StoreUnavailableError)
    assert sorted(handler.handled) == sorted([*range(13), *range(14, 30), *range(10)])
    assert len(await store.dead_letters.list("w")) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_that_is_away_stops_nobody_from_stopping(
    store: Store, kind: str
) -> None:
    """A stop while the store is away returns in time; nothing is lost."""
    await fill(store, 30)
    outage, handler = Outage(store), Handler()
    outage.error = StoreUnavailableError("away")
    handle, most = kind_of(handler, kind)
    subscription = subscribe(outage.over(), "w", handle, Delivery(max_streams=most))
    subscription.start()
    await until(lambda: outage.refused["load"] > 1)
    started = asyncio.get_running_loop().time()
    await subscription.stop(SOON)
    assert asyncio.get_running_loop().time() - started < 10
    assert subscription.state is State.STOPPED
    assert await store.checkpoints.load("w") is None


async def test_a_damaged_store_ends_the_subscription(store: Store) -> None:
    """What will not pass by waiting ends it at once, with the error."""
    await fill(store, 30)
    outage, handler = Outage(store), Handler()
    outage.error = CorruptionError("bytes changed")
    subscription = subscribe(outage.over(), "w", handler.one)
    subscription.start()
    assert subscription._task is not None
    await asyncio.wait_for(subscription._task, 20)
    assert subscription.state is State.FAILED
    assert isinstance(subscription.error, CorruptionError)
    assert outage.refused.total() == 1


async def test_a_checkpoint_that_cannot_be_saved_is_unhealthy(store: Store) -> None:
    """Events are handled all the same; the next checkpoint makes it healthy again."""
    await fill(store, 20)
    outage, handler = Outage(store), Handler()
    shut = outage.over()
    saving = replace(store, checkpoints=shut.checkpoints)
    async with subscribe(saving, "w", handler.one, Delivery(page=5)) as subscription:
        await subscription.caught_up(SOON)
        outage.error = StoreUnavailableError("no writes")
        await fill(store, 10, "more")
        await subscription.caught_up(SOON)
        await until(lambda: outage.refused["save"] > 0)
        assert not subscription.healthy
        assert subscription.status().checkpoint == 20
        outage.error = None
        await fill(store, 10, "more")
        await subscription.caught_up(SOON)
        await until(lambda: subscription.healthy)
    assert await store.checkpoints.load("w") == Checkpoint("w", 40)


async def test_a_checkpoint_moves_after_its_answer_was_given_up(store: Store) -> None:
    """A database that was stuck ends a save later: that was no other worker."""
    await fill(store, 10)
    saves: list[Any] = []

    async def stuck(_: str, call: Any) -> Any:
        saves.append(call)
        if len(saves) == 2:
            raise AppendOutcomeUnknownError("it")
        if len(saves) == 3:  # it has been looked up, and was not there
            await saves[1]()
        return await call()

    slow = intercepted(store, stuck, ports=["checkpoints.save"])
    handler = Handler()
    async with subscribe(slow, "w", handler.one) as subscription:
        await subscription.caught_up(SOON)
        await until(lambda: len(saves) == 1)
        await fill(store, 1, "more")
        await until(lambda: len(saves) >= 2)
        await fill(store, 1, "more")
        await until(lambda: subscription.status().checkpoint == 12)
        assert subscription.healthy
    assert len(saves) >= 4
    assert await store.checkpoints.load("w") == Checkpoint("w", 12)
    assert len(handler.handled) == 12


async def test_a_checkpoint_that_another_worker_moves_meanwhile(store: Store) -> None:
    """It is known from a late save of ours: none of ours went where it is."""
    await fill(store, 10)
    saves = 0

    async def stuck(_: str, call: Any) -> Any:
        nonlocal saves
        saves += 1
        if saves == 2:
            raise AppendOutcomeUnknownError("it")
        if saves == 3:
            await store.checkpoints.save(SaveCheckpoint("w", 9, after=10))
        return await call()

    slow = intercepted(store, stuck, ports=["checkpoints.save"])
    subscription = subscribe(slow, "w", Handler().one)
    subscription.start()
    await subscription.caught_up(SOON)
    for n in (1, 2):
        await until(lambda n=n: saves >= n)
        await fill(store, 1, "more")
    await until(lambda: subscription.state is State.FAILED)
    assert isinstance(subscription.error, CheckpointError)
    assert await store.checkpoints.load("w") == Checkpoint("w", 9)


@pytest.mark.parametrize("outcome", ["committed", "lost", "late"])
async def test_s2_a_commit_without_an_answer_is_looked_up(
    store: Store, outcome: str
) -> None:
    """Whether it is there, is not, or comes later: all events, exactly once each."""
    await fill(store, 30)
    left, last = 2, list[Any]()

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        nonlocal left
        left -= 1
        if left == -1 and outcome == "late":  # after it was looked up
            async with store.transaction() as tx:
                await apply(tx, last)
                moved = SaveCheckpoint("x", last[-1].position, after=10)
                await tx.append(also=[moved])
        async with store.transaction() as tx:
            yield tx
            if left == 0 and outcome != "committed":
                raise AppendOutcomeUnknownError("it")
        if left == 0:
            raise AppendOutcomeUnknownError("it")

    async def apply(tx: Transaction[Any], batch: Sequence[Any]) -> None:
        last[:] = batch
        new = [NewEvent(Fact(r.event.n), new_id()) for r in batch]
        await tx.append(Write(MODEL, new, ANY))

    unsure = replace(store, transaction=transaction)
    query = Query.of(categories=["s"])
    delivery: Delivery[Any] = Delivery(query=query, page=10)
    async with subscribe(unsure, "x", Transactional(apply), delivery) as subscription:
        await subscription.wait_for(30, SOON)
    model = await store.read_stream(MODEL)
    assert [r.event.n for r in model.events] == list(range(30))
    assert left < 0, "it went on"


async def test_s2_a_late_checkpoint_of_what_was_passed_over(store: Store) -> None:
    """It is none of the batch that follows, which is handled all the same, and once."""
    await fill(store, 10)
    late: list[Any] = []
    begun = 0

    async def stuck(_: str, call: Any) -> Any:
        if begun < 2:
            late.append(call)
            raise AppendOutcomeUnknownError("it")
        return await call()

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        nonlocal begun
        begun += 1
        if begun == 2:
            await late[0]()
        async with store.transaction() as tx:
            yield tx

    async def apply(tx: Transaction[Any], batch: Sequence[Any]) -> None:
        new = [NewEvent(Fact(r.event.n), new_id()) for r in batch]
        await tx.append(Write(MODEL, new, ANY))

    slow = intercepted(store, stuck, ports=["checkpoints.save"])
    slow = replace(slow, transaction=transaction)
    delivery: Delivery[Any] = Delivery(query=Query.of(categories=["s"]), page=10)
    async with subscribe(slow, "x", Transactional(apply), delivery) as subscription:
        await subscription.caught_up(SOON)
        other = StreamName("other", "1")
        await store.append(Write(other, [NewEvent(Fact(0), new_id())], ANY))
        await until(lambda: bool(late))
        await fill(store, 10)
        await subscription.wait_for(await store.head(), SOON)
    model = await store.read_stream(MODEL)
    assert [r.event.n for r in model.events] == [*range(10), *range(10)]
    assert begun == 3


async def test_s2_a_batch_that_failed_cannot_have_moved_the_checkpoint(
    store: Store,
) -> None:
    """Where it would have gone, another worker is seen when a part of it is tried."""
    await fill(store, 10)
    applied: list[int] = []

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        if applied:
            await store.checkpoints.save(SaveCheckpoint("x", 10))
        async with store.transaction() as tx:
            yield tx

    async def apply(_: Transaction[Any], batch: Sequence[Any]) -> None:
        applied.append(len(batch))
        if len(batch) == 10:
            raise ValueError("one of them")

    joined = replace(store, transaction=transaction)
    delivery: Delivery[Any] = Delivery(page=10)
    subscription = subscribe(joined, "x", Transactional(apply), delivery)
    subscription.start()
    await until(lambda: subscription.state is State.FAILED)
    assert isinstance(subscription.error, CheckpointError)
    assert applied == [10, 5]


@pytest.mark.parametrize("evsrc_back_end", ["sqlite", "postgresql"])
async def test_s2_the_users_own_sql_commits_with_the_checkpoint(
    open_store: OpenStore, evsrc_back_end: str
) -> None:
    """A table of the user's, written through the connection, is the fold of the log."""
    failures = Counter({7: 3, 21: 3})

    async def apply(tx: Transaction[Any], batch: Sequence[Any]) -> None:
        for recorded in batch:
            n = recorded.event.n
            if evsrc_back_end == "sqlite":
                await tx.connection.execute("INSERT INTO s2_seen VALUES (?)", [n])
            else:
                await tx.connection.execute("INSERT INTO s2_seen VALUES ($1)", n)
            if failures[n]:
                failures[n] -= 1
                raise ValueError(n)

    async with await open_store() as store:
        await fill(store, 30)
        async with store.transaction() as tx:
            await tx.connection.execute("DROP TABLE IF EXISTS s2_seen")
            await tx.connection.execute("CREATE TABLE s2_seen (n int)")
        policy = retry_then(Stop(), retries=9, delay=QUICK)
        delivery: Delivery[Any] = Delivery(on_failure=policy, page=10)
        async with subscribe(store, "x", Transactional(apply), delivery) as running:
            await running.caught_up(SOON)
        async with store.transaction() as tx:
            read = (
                tx.connection.fetchall
                if evsrc_back_end == "sqlite"
                else tx.connection.fetch
            )
            rows = await read("SELECT n FROM s2_seen ORDER BY n")
    assert [n for (n,) in rows] == list(range(30))
    assert failures.total() == 0


async def test_s2_starting_anew_moves_the_checkpoint_back_first(store: Store) -> None:
    """From the beginning means the checkpoint too, so that no batch looks committed."""
    await fill(store, 30)
    await store.checkpoints.save(SaveCheckpoint("x", 30))
    handled: list[int] = []

    async def apply(tx: Transaction[Any], batch: Sequence[Any]) -> None:
        handled.extend(r.event.n for r in batch)

    delivery: Delivery[Any] = Delivery(start="beginning", page=10)
    async with subscribe(store, "x", Transactional(apply), delivery) as subscription:
        await subscription.caught_up(SOON)
    assert handled == list(range(30))
    assert await store.checkpoints.load("x") == Checkpoint("x", 30)


# Parallel.


async def test_streams_are_handled_in_parallel_and_in_order(store: Store) -> None:
    """Up to so many at once, each stream in order, the low-watermark as checkpoint."""
    for n in range(60):
        stream = StreamName("s", str(n % 6))
        await store.append(Write(stream, [NewEvent(Fact(n), new_id())], ANY))
    gate, busy, most = asyncio.Event(), Counter[str](), 0
    done: list[Any] = []

    async def handle(recorded: Any) -> None:
        nonlocal most
        lane = recorded.stream.id
        busy[lane] += 1
        assert busy[lane] == 1, "a stream is handled by one at a time"
        most = max(most, sum(busy.values()))
        if lane == "2":
            await gate.wait()
        else:
            await asyncio.sleep(0)
        done.append(recorded)
        busy[lane] -= 1

    delivery: Delivery[Any] = Delivery(max_streams=4, checkpoint_due=after_event)
    async with subscribe(store, "p", handle, delivery) as subscription:
        await until(lambda: len(done) == 50)
        assert subscription.position == 2, "stream 2 is stuck at the third event"
        await until(lambda: subscription.status().checkpoint == 2)
        gate.set()
        await subscription.caught_up(SOON)
    assert most == 4
    for lane in range(6):
        versions = [r.version for r in done if r.stream.id == str(lane)]
        assert versions == list(range(1, 11))
    assert await store.checkpoints.load("p") == Checkpoint("p", 60)


async def test_an_error_of_one_stream_ends_all(store: Store) -> None:
    """A stream that stops stops the subscription, though others are at work."""
    await fill(store, 30)
    hung = asyncio.Event()

    async def handle(recorded: Any) -> None:
        if recorded.stream.id == "1":
            raise ValueError
        await hung.wait()

    delivery: Delivery[Any] = Delivery(
        max_streams=3, on_failure=retry_then(Stop(), retries=0)
    )
    async with subscribe(store, "p", handle, delivery) as subscription:
        with pytest.raises(SubscriptionError, match="stopped before"):
            await subscription.caught_up(SOON)
        assert subscription.position == 0


# Status, liveness, logs.


async def test_the_status_follows_the_work(store: Store) -> None:
    """Position, head, lag in events and time, rate, estimate: true at every moment."""
    await fill(store, 40)
    at_20, gate = asyncio.Event(), asyncio.Event()

    async def handle(recorded: Any) -> None:
        if recorded.event.n == 20 and not gate.is_set():
            at_20.set()
            await gate.wait()

    subscription = subscribe(store, "s", handle, Delivery(page=10))
    status = subscription.status()
    assert (status.state, status.ready, status.alive) == (State.STARTING, False, False)
    subscription.start()
    await asyncio.wait_for(at_20.wait(), 20)
    status = subscription.status()
    assert (status.name, status.state) == ("s", State.CATCHING_UP)
    assert (status.position, status.head, status.lag) == (20, 40, 20)
    assert (status.handled, status.failed, status.parked, status.skipped) == (
        20,
        *[0] * 3,
    )
    assert (status.healthy, status.alive, status.ready) == (True, True, False)
    assert status.checkpoint == 20
    assert status.behind is not None
    oldest = (await store.read_all(after=20, limit=1)).events[0].recorded_at
    assert status.behind <= datetime.now(UTC) - oldest + timedelta(seconds=1)
    assert status.rate is not None
    assert status.rate > 0
    assert status.remaining is not None
    assert status.remaining > timedelta(0)
    gate.set()
    await subscription.caught_up(SOON)
    await until(lambda: subscription.ready)
    status = subscription.status()
    assert (status.lag, status.behind) == (0, timedelta(0))
    assert (status.remaining, status.state) == (timedelta(0), State.LIVE)
    subscription.pause()
    await fill(store, 10, "later")
    assert subscription.status().lag == 0, "what it has not read it does not know"
    measured = await subscription.measure()
    assert (measured.state, measured.head, measured.lag) == (State.PAUSED, 50, 10)
    assert measured.behind is not None
    assert measured.behind > timedelta(0)
    assert not measured.healthy
    await subscription.stop(SOON)
    ended = subscription.status()
    assert (ended.state, ended.alive, ended.ready) == (State.STOPPED, False, True)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stuck_handler_is_not_alive(store: Store, kind: str) -> None:
    """It is alive while it waits or works, but not when one call takes too long."""
    await fill(store, 30)
    gate, entered = asyncio.Event(), asyncio.Event()

    async def stick(*_: Any) -> None:
        entered.set()
        await gate.wait()

    kinds = {"batches": Batched(stick), "transactions": Transactional(stick)}
    limit = timedelta(milliseconds=40)
    delivery: Delivery[Any] = Delivery(
        stuck_after=limit, max_streams=2 if kind == "streams" else 1
    )
    async with subscribe(store, "a", kinds.get(kind, stick), delivery) as subscription:
        await asyncio.wait_for(entered.wait(), 20)
        await until(lambda: not subscription.alive)
        gate.set()
        await subscription.caught_up(SOON)
        await until(lambda: subscription.alive)
        pause = asyncio.Event()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pause.wait(), 0.1)
        await until(lambda: subscription.alive)  # it waits for events, and that is well
        subscription.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pause.wait(), 0.1)
        await until(lambda: subscription.alive)


class Watched:
    """A store that tells whether somebody waits for events; it is not read in circles."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.reads = self.waiting = 0

    async def read_all(self, *asked: Any, **more: Any) -> Any:
        self.reads += 1
        assert self.reads < 100, "it reads in circles"
        return await self.store.read_all(*asked, **more)

    async def changed(self, *asked: Any, **more: Any) -> Any:
        self.waiting += 1
        try:
            return await self.store.changed(*asked, **more)
        finally:
            self.waiting -= 1

    def over(self) -> Store:
        return replace(self.store, read_all=self.read_all, changed=self.changed)


async def test_a_resumed_subscription_waits_for_events_again(store: Store) -> None:
    """It handles the next event, and leaves the processor to others meanwhile."""
    await fill(store, 10)
    watched, handler = Watched(store), Handler()
    async with subscribe(watched.over(), "w", handler.one) as subscription:
        await until(lambda: watched.waiting == 1)
        for new in (10, 20):
            subscription.pause()
            await until(lambda: watched.waiting == 0 and subscription._run.idle)
            subscription.resume()
            await until(lambda: watched.waiting == 1 or subscription.ended)
            assert subscription.error is None
            await fill(store, 10, "more")
            await subscription.wait_for(new + 10, SOON)
            await until(lambda: watched.waiting == 1)
    assert handler.handled == [*range(10), *range(10), *range(10)]


async def test_after_two_requests_at_once_it_waits_for_events_again(
    store: Store,
) -> None:
    """One that comes while another is served is served too, and that is all."""
    await fill(store, 10)
    watched, handler = Watched(store), Handler({3, 6})
    inside, gate = asyncio.Event(), asyncio.Event()

    async def handle(recorded: Any) -> None:
        await handler.one(recorded)
        if recorded.event.n in (3, 6):
            inside.set()
            await gate.wait()

    parking: Delivery[Any] = Delivery(on_failure=PARK)
    async with subscribe(watched.over(), "w", handle, parking) as subscription:
        await until(lambda: watched.waiting == 1)
        handler.poison.clear()
        letters = subscription.dead_letters
        first, second = [
            asyncio.create_task(letters.redrive(letter))
            for letter in await letters.list()
        ]
        await asyncio.wait_for(inside.wait(), 20)
        third = asyncio.create_task(letters.redrive_stream(StreamName("s", "0")))
        await until(lambda: len(subscription._loop._requests) == 2)
        gate.set()
        await asyncio.wait_for(asyncio.gather(first, second, third), 20)
        await until(lambda: watched.waiting == 1 or subscription.ended)
        assert subscription.error is None
        await fill(store, 10, "more")
        await subscription.wait_for(20, SOON)
    assert sorted(handler.handled) == sorted([*range(10), *range(10)])


async def test_a_subscription_runs_in_a_task_that_survived_a_cancellation(
    store: Store,
) -> None:
    """An earlier cancellation of its task, caught by whoever owns it, is not its own."""
    await fill(store, 10)
    watched, handler = Watched(store), Handler()
    subscription = subscribe(watched.over(), "w", handler.one)
    never = asyncio.Event()

    async def own() -> None:
        with suppress(asyncio.CancelledError):
            await never.wait()
        await subscription.run()

    owner = asyncio.create_task(own())
    await asyncio.sleep(0)
    owner.cancel()
    await until(lambda: watched.waiting == 1)
    subscription.pause()
    await until(lambda: owner.done() or watched.waiting == 0)
    subscription.resume()
    await until(lambda: owner.done() or watched.waiting == 1)
    assert not owner.done()
    assert owner.cancelling() == 1, "its pause left nothing behind"
    await subscription.stop(SOON)
    await asyncio.wait_for(owner, 20)
    assert subscription.state is State.STOPPED


async def test_a_cancellation_while_a_transaction_is_taken_back_goes_on(
    store: Store,
) -> None:
    """The failure of a handler does not hide that somebody ends the subscription."""
    await fill(store, 10)
    taken_back, never = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        async with store.transaction() as tx:
            try:
                yield tx
            except ValueError:
                taken_back.set()
                await never.wait()
                raise

    handler = Handler(range(10))
    slow = replace(store, transaction=transaction)
    delivery: Delivery[Any] = Delivery(on_failure=lambda _: Stop())
    subscription = subscribe(slow, "w", Transactional(handler.apply), delivery)
    owner = asyncio.create_task(subscription.run())
    await asyncio.wait_for(taken_back.wait(), 20)
    owner.cancel()
    await asyncio.wait([owner], timeout=20)
    assert owner.cancelled()
    assert subscription.state is State.STOPPED
    assert handler.calls == 1


async def test_an_outage_inside_a_transactional_handler_is_waited_for(
    store: Store,
) -> None:
    """The store's error that passes is not the event's: nothing is parked for it."""
    await fill(store, 10)
    outages = 1
    handler = Handler()

    async def apply(tx: Transaction[Any], batch: Sequence[Any]) -> None:
        nonlocal outages
        if outages:
            outages -= 1
            raise StoreUnavailableError("away, says tx.append")
        await handler.apply(tx, batch)

    delivery: Delivery[Any] = Delivery(on_failure=PARK)
    applied = Transactional(apply)
    async with subscribe(store, "w", applied, delivery) as subscription:
        await subscription.wait_for(10, SOON)
        assert (subscription.failed, subscription.parked) == (0, 0)
        assert isinstance(subscription.status().last_error, StoreUnavailableError)
    assert handler.handled == list(range(10))


async def test_logs_have_fields_and_no_payload(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Every record says which subscription and event; none what the event says."""
    caplog.set_level(logging.DEBUG, "evsrc")
    canary = 987_654_321
    new = NewEvent(Fact(canary), new_id(), Metadata(correlation_id="c-1"))
    stream = StreamName("s", "1")
    await store.append(Write(stream, [new], ANY))

    async def fail(recorded: Any) -> None:
        raise ValueError(f"cannot handle {recorded.event}")

    for name, last in (("parks", Park()), ("skips", Skip()), ("stops", Stop())):
        policy = retry_then(last, retries=1, delay=QUICK)
        delivery: Delivery[Any] = Delivery(on_failure=policy)
        async with subscribe(store, name, fail, delivery) as subscription:
            if name == "stops":
                with pytest.raises(SubscriptionError):
                    await subscription.caught_up(SOON)
            else:
                await subscription.caught_up(SOON)
    records = {r.subscription: r for r in caplog.records if hasattr(r, "subscription")}
    assert set(records) == {"parks", "skips", "stops"}
    for name in ("parks", "skips"):
        fields = vars(records[name])
        assert fields["stream"] == str(stream)
        assert fields["event_id"] == str(new.id)
        assert fields["correlation_id"] == "c-1"
        assert fields["position"] == 1
        assert fields["error_type"] == "ValueError"
        assert "test_operating.py" in fields["error_at"]
    text = "".join(str(vars(r)) + r.getMessage() for r in caplog.records)
    assert str(canary) not in text
    assert str(canary) not in caplog.text


async def test_what_cannot_be_read_stops_it_right_before(store: Store) -> None:
    """The events before an undecodable one are handled; then it stops, with the error."""
    await fill(store, 30)

    async def read_all(query: Any, *, after: int, limit: int) -> Any:
        page = await store.read_all(query, after=after, limit=limit)
        if any(recorded.event.n == 17 for recorded in page.events):
            raise SerializationError("fact", "no such field")
        return page

    handler = Handler()
    torn = replace(store, read_all=read_all)
    async with subscribe(torn, "u", handler.one) as subscription:
        with pytest.raises(SubscriptionError, match="no such field"):
            await subscription.wait_for(30, SOON)
        assert isinstance(subscription.error, SerializationError)
    assert handler.handled == list(range(17))
    assert await store.checkpoints.load("u") == Checkpoint("u", 17)


async def test_checkpoints_by_event_and_by_time(store: Store) -> None:
    """After each event, or when the time is over, also if nothing more comes."""
    await fill(store, 20)
    saved: list[int] = []
    kept = store.checkpoints

    async def save(change: SaveCheckpoint) -> None:
        saved.append(change.position)
        await kept.save(change)

    async def handle(_: Any) -> None: ...

    watched = replace(store, checkpoints=replace(kept, save=save))
    each: Delivery[Any] = Delivery(checkpoint_due=after_event)
    async with subscribe(watched, "each", handle, each) as subscription:
        await subscription.caught_up(SOON)
    assert saved == list(range(1, 21))
    saved.clear()
    rare: Delivery[Any] = Delivery(checkpoint_due=after_time(HOUR))
    async with subscribe(watched, "rare", handle, rare) as subscription:
        await subscription.caught_up(SOON)
        assert saved == []
    assert saved == [20], "what is handled is saved at the end"
    saved.clear()
    moment = timedelta(milliseconds=30)
    soon: Delivery[Any] = Delivery(checkpoint_due=after_time(moment), poll=moment)
    async with subscribe(watched, "soon", handle, soon) as subscription:
        await subscription.caught_up(SOON)
        await until(lambda: saved[-1:] == [20])
    assert saved == sorted(set(saved)), "a slow machine may save on the way, too"


# Stopping.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", ["live", "paused", "retrying", "open", "hung"])
async def test_s7_every_kind_stops_in_time(
    store: Store, kind: str, moment: str
) -> None:
    """Whatever it does, it ends in time, and all that it handled is saved."""
    await fill(store, 30)
    handler, hung, entered = Handler(), asyncio.Event(), asyncio.Event()
    if moment in ("retrying", "open"):
        handler.poison = {20}
    options: dict[str, Any] = {"on_failure": lambda _: retry_forever(HOUR)}
    if moment == "open":
        breaker = Breaker(failures=1, pause=HOUR, longest=HOUR)
        options = {"on_failure": PARK, "breaker": breaker}

    async def hang(*given: Any) -> None:
        events = given[-1] if isinstance(given[-1], tuple) else [given[-1]]
        if any(recorded.event.n == 20 for recorded in events):
            entered.set()
            await hung.wait()
        handler.handled += [recorded.event.n for recorded in events]

    kinds = {"batches": Batched(hang), "transactions": Transactional(hang)}
    handle = kinds.get(kind, hang) if moment == "hung" else handler.of(kind)
    most = 2 if kind == "streams" else 1
    delivery: Delivery[Any] = Delivery(page=5, max_streams=most, **options)
    subscription = subscribe(store, "z", handle, delivery)
    subscription.start()
    match moment:
        case "hung":
            await asyncio.wait_for(entered.wait(), 20)
        case "retrying":
            await until(lambda: subscription.state is State.RETRYING)
        case "open":
            await until(lambda: subscription.state is State.CIRCUIT_OPEN)
        case _:
            await subscription.caught_up(SOON)
    if moment == "paused":
        subscription.pause()
    timeout = timedelta(seconds=0.2 if moment == "hung" else 20)
    started = asyncio.get_running_loop().time()
    await subscription.stop(timeout)
    assert asyncio.get_running_loop().time() - started < 8
    assert subscription.state is State.STOPPED
    saved = await store.checkpoints.load("z")
    assert saved is not None
    done = 20 if moment in ("retrying", "open", "hung") else 30
    assert saved.position == done
    assert set(handler.handled) >= set(range(done))
    assert 20 not in handler.handled or done == 30


def retry_forever(delay: timedelta) -> Any:
    from evsrc import Retry

    return Retry(delay)


@pytest.mark.parametrize(
    ("handler", "options", "message"),
    [
        (Batched(Handler().all), {"max_streams": 2}, "single events"),
        (Transactional(Handler().apply), {"max_streams": 2}, "single events"),
        (Transactional(Handler().apply), {"checkpoint_due": after_event}, "every page"),
    ],
)
async def test_what_does_not_go_together_is_refused(
    store: Store, handler: Any, options: Any, message: str
) -> None:
    """An option that could have no effect is an error when it is given."""
    with pytest.raises(ValueError, match=message):
        subscribe(store, "x", handler, Delivery(**options))
    with pytest.raises(ValueError, match="max_streams is at least 1"):
        Delivery(max_streams=0)
    with pytest.raises(ValueError, match="a page has at least 1"):
        Delivery(page=0)


async def test_streams_are_held_for_letters_of_the_store_only() -> None:
    """Letters that are kept elsewhere cannot tell which streams are held."""

    async def park(_: Any) -> None: ...

    with pytest.raises(ValueError, match="hold_streams"):
        Delivery(park=park, hold_streams=True)
    with pytest.raises(ValueError, match="at least 1"):
        Breaker(failures=0)
    with pytest.raises(ValueError, match="share"):
        Breaker(share=1.5)
