"""S1, S3, S5 and S7: delivery survives crashes, silence, failures and stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import ref

import pytest
from msgspec import Struct

from evsrc import (
    ANY,
    Delivery,
    NewEvent,
    Park,
    Query,
    Retry,
    Skip,
    Stop,
    StreamName,
    Write,
    json_codec,
    retry_then,
    sqlite_store,
    subscribe,
)
from evsrc.core.errors import CheckpointAheadError, SubscriptionError
from evsrc.core.snapshot import Snapshotting, every
from evsrc.core.view import View
from evsrc.ports import Checkpoint, EventStore, Page, SaveCheckpoint
from evsrc.runtime.delivery import Parked, Progress, State
from evsrc.runtime.project import project
from evsrc.runtime.projection import ViewProjection
from evsrc.testing import Deafen, Fact, Fault, Trap, Work, fail_everywhere, faulty
from tests.conftest import OpenStore

Store = EventStore[Any]
SOON = timedelta(seconds=20)
QUICK = timedelta(microseconds=1)


async def fill(store: Store, count: int, category: str = "s") -> None:
    for n in range(0, count, 10):
        events = [NewEvent(Fact(n + i), uuid4()) for i in range(min(10, count - n))]
        await store.append(Write(StreamName(category, str(n % 3)), events, ANY))


class Crash(BaseException):
    """The process ends here."""


async def test_s1_a_crash_at_every_await_loses_nothing(store: Store) -> None:
    """For each n the loop crashes at its n-th step; restarts handle all, in order."""
    await fill(store, 40)
    log = [r.position for r in (await store.read_all()).events]

    async def deliver(trap: Trap, name: str, handled: list[int]) -> None:
        async def handle(recorded: Any) -> None:
            await trap.step(lambda: note(handled, recorded.position))

        delivery: Delivery[Any] = Delivery(page=7)
        subscription = subscribe(trap.over(store), name, handle, delivery)
        subscription.start()
        task = subscription._task
        assert task is not None
        reached = asyncio.create_task(subscription.wait_for(log[-1], SOON))
        await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if not task.done():
            await subscription.stop(SOON)
        await asyncio.wait([task, reached])
        await task

    async def trial(trap: Trap) -> AsyncGenerator[Work, None]:
        name, handled = f"crash-{trap.n}", list[int]()
        yield deliver(trap, name, handled)
        if trap.sprung:
            saved = await store.checkpoints.load(name)
            assert set(log[: (saved.position if saved else 0)]) <= set(handled)
            await deliver(trap, name, handled)
        assert sorted(set(handled)) == log
        assert in_order_but_for_one_repetition(handled)
        assert await store.checkpoints.load(name) == Checkpoint(name, log[-1])

    crashes = await fail_everywhere(trial, error=Crash)
    print(f"S1: crashed at each of {crashes} steps, 0 lost")
    assert crashes > 80


async def note(handled: list[int], position: int) -> None:
    handled.append(position)


def in_order_but_for_one_repetition(handled: list[int]) -> bool:
    """After a crash it goes on at the checkpoint: one step back, else forward."""
    back = [i for i in range(1, len(handled)) if handled[i] <= handled[i - 1]]
    return len(back) <= 1


async def test_s1_failed_events_are_not_passed(store: Store) -> None:
    """An event that fails for good stops the subscription before it, visibly."""
    await fill(store, 30)
    handled: list[int] = []

    async def handle(recorded: Any) -> None:
        if recorded.event.n == 17:
            raise ValueError("poison")
        handled.append(recorded.event.n)

    policy = retry_then(Stop(), retries=2, delay=QUICK)
    async with subscribe(
        store, "p", handle, Delivery(on_failure=policy)
    ) as subscription:
        with pytest.raises(SubscriptionError, match="poison"):
            await subscription.caught_up(SOON)
        assert subscription.state is State.FAILED
        assert subscription.failed == 3
        assert isinstance(subscription.error, SubscriptionError)
    before = await store.checkpoints.load("p")
    assert before is not None
    page = await store.read_all(after=before.position, limit=1)
    assert page.events[0].event.n == 17


async def test_s4_parked_events_are_kept_and_the_rest_is_handled(store: Store) -> None:
    """Parking hands the event over with its error, then goes on; skipping only counts."""
    await fill(store, 30)
    parked: list[Parked[Any]] = []
    handled: list[int] = []

    async def handle(recorded: Any) -> None:
        if recorded.event.n % 10 == 3:
            raise ValueError(recorded.event.n)
        handled.append(recorded.event.n)

    async def park(event: Parked[Any]) -> None:
        parked.append(event)

    policy = retry_then(Park(), retries=1, delay=QUICK)
    delivery: Delivery[Any] = Delivery(on_failure=policy, park=park)
    async with subscribe(store, "parks", handle, delivery) as subscription:
        await subscription.caught_up(SOON)
        assert (subscription.parked, subscription.failed) == (3, 6)
    assert [(p.recorded.event.n, p.attempts) for p in parked] == [
        (3, 2),
        (13, 2),
        (23, 2),
    ]
    assert len(handled) == 27
    skips: Delivery[Any] = Delivery(on_failure=lambda _: Skip())
    async with subscribe(store, "skips", handle, skips) as subscription:
        await subscription.caught_up(SOON)
        assert (subscription.parked, subscription.failed) == (0, 3)
    assert await store.dead_letters.list() == ()


async def test_s3_lost_wake_ups_cost_latency_only(store: Store) -> None:
    """With every wake-up lost, events arrive within the poll interval."""
    handled: list[int] = []

    async def handle(recorded: Any) -> None:
        handled.append(recorded.event.n)

    poll = timedelta(milliseconds=50)
    silent = faulty(store, [Fault("changed", 1, Deafen())])
    loop = asyncio.get_running_loop()
    async with subscribe(silent, "deaf", handle, Delivery(poll=poll)) as subscription:
        await subscription.caught_up(SOON)
        for n in range(5):
            started = loop.time()
            outcome = await store.append(
                Write(StreamName("s", "x"), [NewEvent(Fact(n), uuid4())], ANY)
            )
            await subscription.wait_for(outcome.position, SOON)
            assert loop.time() - started < 5
    assert handled == list(range(5))


async def test_s5_a_dead_subscriber_disturbs_nobody(store: Store) -> None:
    """Beside one that hangs and one that fails, appends and other readers go on."""
    release = asyncio.Event()

    async def hang(_: Any) -> None:
        await release.wait()

    async def fail(_: Any) -> None:
        raise ValueError

    handled: list[int] = []

    async def handle(recorded: Any) -> None:
        handled.append(recorded.event.n)

    policy = retry_then(Stop(), retries=1_000_000, delay=timedelta(milliseconds=1))
    async with (
        subscribe(store, "hangs", hang) as hanging,
        subscribe(store, "fails", fail, Delivery(on_failure=policy)) as failing,
        subscribe(store, "works", handle) as working,
    ):
        await fill(store, 200)
        await working.caught_up(SOON)
        assert handled == list(range(200))
        assert hanging.position == failing.position == 0
        assert not await failing.settled(200, SOON)
        assert failing.state is State.RETRYING
        release.set()
        await hanging.caught_up(SOON)


@pytest.mark.parametrize(
    "moment", ["live", "catching up", "retrying", "paused", "hung"]
)
async def test_s7_stop_returns_in_time_with_all_handled_saved(
    store: Store, moment: str
) -> None:
    """Whatever it is doing, a stop returns in time, and what was handled is saved."""
    await fill(store, 50)
    at_20, forever = asyncio.Event(), asyncio.Event()
    handled: list[int] = []

    async def handle(recorded: Any) -> None:
        if recorded.event.n == 20:
            at_20.set()
            if moment == "hung":
                await forever.wait()
            if moment == "retrying":
                raise ValueError
            if moment == "paused":
                subscription.pause()
        handled.append(recorded.position)
        if moment == "catching up":
            await asyncio.sleep(0)

    policy = retry_then(Stop(), retries=9, delay=timedelta(hours=1), longest=SOON * 999)
    subscription = subscribe(store, "s", handle, Delivery(on_failure=policy))
    subscription.start()
    await asyncio.wait_for(at_20.wait(), 20)
    if moment == "live":
        await subscription.caught_up(SOON)
    timeout = timedelta(seconds=1 if moment == "hung" else 20)
    started = asyncio.get_running_loop().time()
    await subscription.stop(timeout)
    took = asyncio.get_running_loop().time() - started
    assert took < (timeout.total_seconds() + 1 if moment == "hung" else 10)
    assert subscription.state is State.STOPPED
    saved = await store.checkpoints.load("s")
    assert saved is not None
    assert saved.position == handled[-1] == len(handled)
    if moment in ("retrying", "hung"):
        assert len(handled) == 20


async def test_ignored_events_move_the_checkpoint(store: Store) -> None:
    """A subscription that wants none of the events still gets to the end of the log."""
    await fill(store, 300)

    async def never(_: Any) -> None:
        raise AssertionError

    delivery: Delivery[Any] = Delivery(query=Query.of(types=["note"]), page=10)
    async with subscribe(store, "none", never, delivery) as subscription:
        await subscription.caught_up(SOON)
        assert subscription.position == await store.head()
    assert await store.checkpoints.load("none") == Checkpoint("none", 300)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("checkpoint", range(20, 40)),
        ("beginning", range(40)),
        ("end", []),
        (35, range(35, 40)),
    ],
)
async def test_starts_where_it_is_told(store: Store, start: Any, expected: Any) -> None:
    """It starts at the checkpoint, the beginning, the end, or after a position."""
    await fill(store, 40)
    await store.checkpoints.save(SaveCheckpoint("s", 20))
    handled: list[int] = []

    async def handle(recorded: Any) -> None:
        handled.append(recorded.event.n)

    async with subscribe(store, "s", handle, Delivery(start=start)) as subscription:
        await subscription.caught_up(SOON)
        assert handled == list(expected)
        await fill(store, 10, "later")
        await subscription.caught_up(SOON)
        assert handled == [*expected, *range(10)]


async def test_checkpoints_are_saved_when_they_are_due(store: Store) -> None:
    """The checkpoint policy is asked after each event, and its answer is followed."""
    await fill(store, 30)
    saved: list[int] = []
    kept = store.checkpoints

    async def save(change: SaveCheckpoint) -> None:
        saved.append(change.position)
        await kept.save(change)

    async def handle(_: Any) -> None: ...

    def every_seven(progress: Progress) -> bool:
        return progress.events >= 7

    delivery: Delivery[Any] = Delivery(
        checkpoint_due=every_seven, checkpoints=replace(kept, save=save)
    )
    async with subscribe(store, "due", handle, delivery) as subscription:
        await subscription.caught_up(SOON)
    assert saved == [7, 14, 21, 28, 30]


async def test_two_runners_of_one_subscription_are_noticed(store: Store) -> None:
    """The second runner finds the checkpoint moved, and ends instead of fighting."""
    await fill(store, 10)
    started = asyncio.Event()
    release = asyncio.Event()

    async def slow(_: Any) -> None:
        started.set()
        await release.wait()

    async def quick(_: Any) -> None: ...

    async with subscribe(store, "one", slow) as first:
        await asyncio.wait_for(started.wait(), 20)
        async with subscribe(store, "one", quick) as second:
            await second.caught_up(SOON)
        release.set()
        await first._task  # type: ignore[misc]
        assert first.state is State.FAILED
    assert await store.checkpoints.load("one") == Checkpoint("one", 10)


async def test_a_runner_that_lost_its_checkpoint_leaves_it_alone(store: Store) -> None:
    """It ends with the error, and does not move the winner's checkpoint back."""
    await fill(store, 10)

    async def handle(_: Any) -> None:
        await store.checkpoints.save(SaveCheckpoint("lost", 100))

    async with subscribe(store, "lost", handle) as subscription:
        assert subscription._task is not None
        await asyncio.wait_for(subscription._task, 20)
        assert subscription.state is State.FAILED
    assert await store.checkpoints.load("lost") == Checkpoint("lost", 100)


async def test_a_cancelled_error_of_a_handler_is_a_failure(store: Store) -> None:
    """A handler that raises CancelledError is retried like any other failure."""
    await fill(store, 10)
    failures = 2

    async def handle(_: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise asyncio.CancelledError

    policy = retry_then(Stop(), delay=QUICK)
    async with subscribe(
        store, "c", handle, Delivery(on_failure=policy)
    ) as subscription:
        await subscription.caught_up(SOON)
        assert subscription.failed == 2


async def test_retries_wait_as_long_as_they_are_told(store: Store) -> None:
    """The delay of a Retry is waited for; jitter keeps it within its share."""
    await fill(store, 10)
    loop, times = asyncio.get_running_loop(), []

    async def handle(_: Any) -> None:
        times.append(loop.time())
        if len(times) <= 3:
            raise ValueError

    delay = timedelta(milliseconds=40)
    delivery: Delivery[Any] = Delivery(on_failure=lambda _: Retry(delay, jitter=0.5))
    async with subscribe(store, "r", handle, delivery) as subscription:
        await subscription.caught_up(SOON)
    waits = [
        after - before for before, after in zip(times[:3], times[1:4], strict=True)
    ]
    assert all(wait >= 0.019 for wait in waits)


async def test_a_closed_store_ends_the_subscription(open_store: OpenStore) -> None:
    """When its store is closed, a subscription fails rather than wait for ever."""
    store = await open_store()

    async def handle(_: Any) -> None: ...

    subscription = subscribe(store, "x", handle)
    subscription.start()
    await subscription.caught_up(SOON)
    await store.close()
    assert subscription._task is not None
    await asyncio.wait_for(subscription._task, 10)
    assert subscription.state is State.FAILED


async def test_a_log_that_lost_its_end_is_noticed(store: EventStore[Any]) -> None:
    """A checkpoint beyond the log stops the subscription: nothing is skipped silently."""
    await store.append(Write(StreamName("a", "b"), [NewEvent(Fact(1), uuid4())], ANY))
    (only,) = (await store.read_all()).events
    await store.checkpoints.save(SaveCheckpoint("ahead", only.position + 7))

    async def handle(_: Any) -> None:
        pytest.fail("it has handled more than there is")

    async with subscribe(store, "ahead", handle) as reading:
        with pytest.raises(SubscriptionError, match="it ends at"):
            await reading.wait_for(only.position + 8)
        assert isinstance(reading.error, CheckpointAheadError)
        assert reading.error.head == only.position


async def test_a_projection_without_its_checkpoint_is_folded_anew(store: Store) -> None:
    """When only half of it was deleted, a read model is rebuilt; it is not stuck."""
    await fill(store, 10)
    count: View[int, Any] = View(0, lambda n, _: n + 1)
    keep = Snapshotting(dump=lambda n: str(n).encode(), load=int, due=every(1))
    definition = ViewProjection(name="n", view=count, keep=keep)
    for half in (store.checkpoints, store.snapshots, None):
        async with project(store, definition) as projection:
            await projection.subscription.caught_up(SOON)
        assert await store.checkpoints.load("n") == Checkpoint("n", await store.head())
        if half is not None:
            await half.delete("n")
        await fill(store, 10)
    assert projection.state == 30


async def test_the_next_page_is_read_before_this_one_is_handled(store: Store) -> None:
    """A handler that never waits does not keep the store from reading on."""
    await fill(store, 40)
    steps: list[str] = []

    async def read_all(*query: Any, **places: Any) -> Page[Any]:
        steps.append("read")
        return await store.read_all(*query, **places)

    async def handle(_: Any) -> None:
        steps.append("handle")

    noted = replace(store, read_all=read_all)
    async with subscribe(noted, "eager", handle, Delivery(page=10)) as reading:
        await reading.caught_up(SOON)
    each = "".join(step[0] for step in steps)
    assert each.startswith("rr" + "h" * 10 + "r" + "h" * 10 + "r" + "h" * 10)
    assert each.count("h") == 40


class Seen(Struct, frozen=True, weakref=True):
    """An event that shows whether somebody has it."""

    n: int


async def test_events_are_let_go_before_their_checkpoint_is_saved(
    tmp_path: Path,
) -> None:
    """The next page is decoded meanwhile, so there are not two of them in memory."""
    events, kept = list[ref[Seen]](), list[int]()
    path, codec = tmp_path / "events.db", json_codec({"seen": Seen})
    async with await sqlite_store(path, codec) as plain:
        news = [NewEvent(Seen(n), uuid4()) for n in range(30)]
        await plain.append(Write(StreamName("s", "1"), news, ANY))
        del news

        async def handle(recorded: Any) -> None:
            events.append(ref(recorded.event))

        async def save(change: SaveCheckpoint) -> None:
            # loop and thread may still have what they have just handed over
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    while any(event() is not None for event in events):
                        await asyncio.sleep(0)
            kept.append(sum(event() is not None for event in events))
            await plain.checkpoints.save(change)

        store = replace(plain, checkpoints=replace(plain.checkpoints, save=save))
        async with subscribe(store, "s", handle, Delivery(page=10)) as subscription:
            await subscription.caught_up()
    assert len(events) == 30
    assert kept == [0, 0, 0]
