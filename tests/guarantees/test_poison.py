"""S4: poison events are parked with their errors, streams wait for them, outages wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from evsrc import (
    ANY,
    Batched,
    Breaker,
    DeadLetter,
    Delivery,
    LeaseLostError,
    NewEvent,
    Park,
    Redriven,
    Retry,
    Skip,
    Stop,
    StreamName,
    SubscriptionError,
    SubscriptionStateError,
    Transactional,
    Write,
    new_id,
    retry_then,
    subscribe,
)
from evsrc.ports import Checkpoint, EventStore, SaveCheckpoint, SaveDeadLetter
from evsrc.runtime.delivery import State
from evsrc.runtime.letters import Letters
from evsrc.testing import Fact, run_virtually
from tests.conftest import OpenStore, on_the_loops_clock
from tests.guarantees.test_subscriptions import QUICK, SOON, fill

Store = EventStore[Any]
PARK = retry_then(Park(), retries=0)
YEAR = r"\d{4}-"
KINDS = ["events", "batches", "streams", "transactions"]


class Handler:
    """Notes what it handled; fails for what is poison, and for all while it is down."""

    def __init__(self, poison: Sequence[int] | set[int] = ()) -> None:
        self.poison = set(poison)
        self.down = False
        self.handled: list[int] = []
        self.calls = 0

    async def one(self, recorded: Any) -> None:
        self.calls += 1
        if self.down or recorded.event.n in self.poison:
            raise ValueError(recorded.event.n)
        self.handled.append(recorded.event.n)

    async def all(self, batch: Sequence[Any]) -> None:
        self.calls += 1
        numbers = [recorded.event.n for recorded in batch]
        if self.down or not self.poison.isdisjoint(numbers):
            raise ValueError(numbers)
        self.handled += numbers

    async def apply(self, _: Any, batch: Sequence[Any]) -> None:
        await self.all(batch)

    def of(self, kind: str) -> Any:
        match kind:
            case "batches":
                return Batched(self.all)
            case "transactions":
                return Transactional(self.apply)
            case _:
                return self.one


def delivery_of(kind: str, **options: Any) -> Delivery[Any]:
    return Delivery(**{"max_streams": 4 if kind == "streams" else 1, **options})


async def numbers_of(store: Store, letters: Sequence[DeadLetter]) -> list[int]:
    found = [await store.find(letter.event_id) for letter in letters]
    return [recorded.event.n for recorded in found if recorded is not None]


async def parked_in(store: Store, name: str) -> list[int]:
    return await numbers_of(store, await store.dead_letters.list(name, limit=10_000))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "poison",
    [range(20, 30), {29}, {0}, {3, 14, 15, 26}, range(30)],
    ids=["a page", "trailing", "first", "some", "all"],
)
async def test_poison_is_parked_and_the_rest_handled(
    store: Store, kind: str, poison: Any
) -> None:
    """Exactly the poison is parked, once each; nothing spins, the end is reached."""
    await fill(store, 30)
    handler = Handler(poison)
    delivery = delivery_of(kind, page=10, on_failure=PARK)
    async with subscribe(store, "p", handler.of(kind), delivery) as subscription:
        await subscription.caught_up(SOON)
        assert subscription.parked == subscription.failed == len(poison)
        assert subscription.handled == 30 - len(poison)
        calls = handler.calls
    assert sorted(handler.handled) == sorted(set(range(30)) - set(poison))
    assert sorted(await parked_in(store, "p")) == sorted(poison)
    assert calls <= 30 + 10 * len(poison), "the batches are halved, no more"
    assert handler.calls == calls
    again = subscribe(store, "p", handler.of(kind), delivery)
    async with again:
        await again.caught_up(SOON)
    assert handler.calls == calls, "what is parked is passed for good"


async def test_a_letter_says_all_about_the_failure(store: Store) -> None:
    """It has the payload as stored, error, trace, attempts, stream, and position."""
    await fill(store, 1)
    handler = Handler({0})
    policy = retry_then(Park(), retries=2, delay=QUICK)
    async with subscribe(store, "p", handler.one, Delivery(on_failure=policy)) as s:
        await s.caught_up(SOON)
        (recorded,) = (await store.read_all()).events
        (letter,) = await s.dead_letters.list()
        inspected = await s.dead_letters.inspect(letter)
    assert inspected.recorded == recorded
    assert inspected.letter == letter
    assert letter.data == store.encode(recorded.event)
    assert (letter.error, letter.attempts) == ("ValueError: 0", 3)
    assert "test_poison.py" in (letter.stacktrace or "")
    assert (letter.stream, letter.position) == (recorded.stream, recorded.position)
    assert (letter.type, letter.status) == (recorded.type, "failed")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_letter_and_its_checkpoint_are_one_transaction(
    store: Store, kind: str
) -> None:
    """No call writes the letter without the checkpoint, or the other way round."""
    await fill(store, 3)
    calls: list[set[type]] = []

    async def append(*writes: Any, also: Any = ()) -> Any:
        calls.append({type(change) for change in also})
        return await store.append(*writes, also=also)

    async def alone(_: Any) -> None:
        raise AssertionError("a letter alone")

    watched = replace(
        store, append=append, dead_letters=replace(store.dead_letters, save=alone)
    )
    handler = Handler({0, 1, 2})
    delivery = delivery_of(kind, on_failure=PARK)
    async with subscribe(watched, "p", handler.of(kind), delivery) as subscription:
        await subscription.caught_up(SOON)
    assert calls.count({SaveCheckpoint, SaveDeadLetter}) == 3


async def test_only_the_event_that_fails_is_judged(store: Store) -> None:
    """The policy is asked about the poison in a batch, with attempts from 1."""
    await fill(store, 30)
    handler, asked = Handler({17}), list[tuple[str, int]]()

    def policy(failure: Any) -> Any:
        asked.append((str(failure.error), failure.attempt))
        return Retry(QUICK) if failure.attempt < 3 else Skip()

    delivery: Delivery[Any] = Delivery(on_failure=policy)
    async with subscribe(store, "b", Batched(handler.all), delivery) as subscription:
        await subscription.caught_up(SOON)
        assert subscription.status().skipped == 1
    assert asked == [("[17]", 1), ("[17]", 2), ("[17]", 3)]
    assert handler.handled == [n for n in range(30) if n != 17], "in order"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_policy_that_stops_stops_before_the_event(
    store: Store, kind: str
) -> None:
    """The subscription fails; what comes before is handled and saved, nothing after."""
    await fill(store, 30)
    handler = Handler({17})
    delivery = delivery_of(kind, on_failure=retry_then(Stop(), retries=0))
    async with subscribe(store, "s", handler.of(kind), delivery) as subscription:
        with pytest.raises(SubscriptionError, match="stopped before position"):
            await subscription.caught_up(SOON)
        status = subscription.status()
    assert (status.state, status.healthy, status.alive) == (State.FAILED, False, False)
    saved = await store.checkpoints.load("s")
    assert saved is not None
    (failed,) = (await store.read_all(after=saved.position, limit=1)).events
    if kind != "streams":
        assert failed.event.n == 17
        assert handler.handled == list(range(17))
    assert failed.event.n <= 17


@pytest.mark.parametrize("kind", KINDS)
async def test_a_held_stream_waits_and_is_replayed_in_order(
    store: Store, kind: str
) -> None:
    """Behind a parked event its stream is parked, also after a restart, then replayed."""
    await fill(store, 30)  # 0..9 in stream 0, 10..19 in stream 1, 20..29 in stream 2
    held, handler = StreamName("s", "1"), Handler({13})
    delivery = delivery_of(kind, page=7, on_failure=PARK, hold_streams=True)
    others = [*range(13), *range(20, 30)]
    first = subscribe(store, "h", handler.of(kind), delivery)
    async with first:
        await first.caught_up(SOON)
    assert sorted(handler.handled) == others
    assert sorted(await parked_in(store, "h")) == [*range(13, 20)]
    async with subscribe(store, "h", handler.of(kind), delivery) as subscription:
        await subscription.caught_up(SOON)
        await add(store, held, 30)
        await add(store, StreamName("s", "2"), 31)
        await subscription.caught_up(SOON)
        assert sorted(handler.handled) == [*others, 31], "it is held after a restart"
        letters = await subscription.dead_letters.list(stream=held)
        assert await numbers_of(store, letters) == [*range(13, 20), 30]
        assert [x.attempts for x in letters] == [1, *[0] * 7]
        with pytest.raises(SubscriptionStateError, match="comes before"):
            await subscription.dead_letters.redrive(letters[1])
        failed = await subscription.dead_letters.redrive_stream(held)
        assert failed.resolved == 0
        assert failed.failed is not None
        assert failed.failed.attempts == 2, "a failure counts"
        handler.poison.clear()
        handler.handled.clear()
        done = await subscription.dead_letters.redrive_stream(held)
        assert (done.resolved, done.failed) == (8, None)
        await add(store, held, 32)
        await subscription.caught_up(SOON)
    assert handler.handled == [*range(13, 20), 30, 32], "in order, then live again"
    assert {x.status for x in await store.dead_letters.list("h")} == {"resolved"}


async def test_a_parked_event_that_comes_again_keeps_its_letter(store: Store) -> None:
    """After a crash with the checkpoint behind it, it is not tried anew, nor renamed."""
    for number in range(2):
        await add(store, StreamName("s", str(number)), number)
    seen: list[int] = []
    stuck: asyncio.Event | None = asyncio.Event()

    async def handle(recorded: Any) -> None:
        seen.append(recorded.event.n)
        if recorded.event.n == 1:
            raise ValueError("no")
        if stuck is not None:
            await stuck.wait()

    delivery: Delivery[Any] = Delivery(
        on_failure=PARK, hold_streams=True, max_streams=2
    )
    async with asyncio.timeout(20):
        first = subscribe(store, "h", handle, delivery)
        first.start()
        await until(lambda: first.parked == 1)
        await first.stop(timedelta(milliseconds=50))
    (letter,) = await store.dead_letters.list("h")
    assert letter.error == "ValueError: no"
    stuck = None
    seen.clear()
    async with subscribe(store, "h", handle, delivery) as again:
        await again.caught_up(SOON)
    assert seen == [0]
    assert await store.dead_letters.list("h") == (letter,)


async def add(store: Store, stream: StreamName, number: int) -> None:
    await store.append(Write(stream, [NewEvent(Fact(number), new_id())], ANY))


async def test_a_stream_is_held_until_its_last_letter_is_gone(store: Store) -> None:
    """Each letter that is discarded frees its event only; the last one the stream."""
    await fill(store, 10)
    stream, handler = StreamName("s", "0"), Handler({8})
    delivery: Delivery[Any] = Delivery(on_failure=PARK, hold_streams=True)
    async with subscribe(store, "h", handler.one, delivery) as subscription:
        await subscription.caught_up(SOON)
        first, second = await subscription.dead_letters.list(stream=stream)
        assert await subscription.dead_letters.discard(first)
        assert not await subscription.dead_letters.discard(first)
        await add(store, stream, 10)
        await subscription.caught_up(SOON)
        assert handler.handled == [*range(8)]
        done = await subscription.dead_letters.redrive_stream(stream)
        assert done.resolved == 2
        await add(store, stream, 11)
        await subscription.caught_up(SOON)
    assert handler.handled == [*range(8), 9, 10, 11]
    assert await store.dead_letters.get("h", first.event_id) is None
    assert second.position > first.position


async def test_without_holding_the_stream_goes_on(store: Store) -> None:
    """By default later events of the stream are handled though one is parked."""
    await fill(store, 10)
    handler = Handler({3})
    delivery: Delivery[Any] = Delivery(on_failure=PARK)
    async with subscribe(store, "g", handler.one, delivery) as subscription:
        await subscription.caught_up(SOON)
        assert handler.handled == [n for n in range(10) if n != 3]
        (letter,) = await subscription.dead_letters.list()
        handler.poison.clear()
        assert (await subscription.dead_letters.redrive(letter)).resolved == 1
        assert handler.handled[-1] == 3
        with pytest.raises(SubscriptionStateError, match="resolved"):
            await subscription.dead_letters.redrive(letter)
    (done,) = await store.dead_letters.list("g")
    assert done.status == "resolved"
    assert done.resolved_by == "re-drive of g"


@pytest.mark.parametrize("paused", [True, False], ids=["paused", "stopped"])
async def test_letters_are_redriven_while_nothing_is_delivered(
    store: Store, paused: bool
) -> None:
    """A paused subscription serves a re-drive, and so does one that is not running."""
    await fill(store, 10)
    handler = Handler({3})
    subscription = subscribe(store, "g", handler.one, Delivery(on_failure=PARK))
    subscription.start()
    await subscription.caught_up(SOON)
    if paused:
        subscription.pause()
    else:
        await subscription.stop(SOON)
    handler.poison.clear()
    (letter,) = await subscription.dead_letters.list()
    redriving = subscription.dead_letters.redrive(letter)
    assert (await asyncio.wait_for(redriving, 20)).resolved == 1
    assert handler.handled[-1] == 3
    assert subscription.state is (State.PAUSED if paused else State.STOPPED)
    await subscription.stop(SOON)


async def test_one_of_several_redrives_a_letter(store: Store) -> None:
    """A letter that somebody has taken is left alone, unless it is taken over."""
    await fill(store, 1)
    handler = Handler({0})
    subscription = subscribe(store, "t", handler.one, Delivery(on_failure=PARK))
    async with subscription:
        await subscription.caught_up(SOON)
    handler.poison.clear()
    (letter,) = await subscription.dead_letters.list()
    other = subscribe(store, "t", handler.one).dead_letters
    both = await asyncio.gather(
        subscription.dead_letters.redrive(letter),
        other.redrive(letter),
        return_exceptions=True,
    )
    assert sum(isinstance(x, SubscriptionStateError) for x in both) == 1
    assert handler.handled == [0]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_letter_whose_redrive_died_is_redriven_by_the_same_call(
    store: Store, kind: str
) -> None:
    """While the dead one's lease lasts it is refused; then each event is handled once."""
    await fill(store, 4)
    handler = Handler({0})
    parking = delivery_of(kind, on_failure=PARK)
    async with subscribe(store, "t", handler.of(kind), parking) as subscription:
        await subscription.caught_up(SOON)
    handler.poison.clear()
    letters = subscription.dead_letters
    (letter,) = await letters.list()
    dead = await store.leases.acquire(f"t#letter/{letter.event_id}", "dead", SOON)
    assert dead is not None
    assert await store.dead_letters.update(_replaced(letter, status="retrying"), letter)
    with pytest.raises(
        SubscriptionStateError, match=f"tries it now.* is free at {YEAR}"
    ):
        await letters.redrive(letter)
    assert sorted(handler.handled) == [1, 2, 3]
    moment = timedelta(milliseconds=1)
    assert await store.leases.renew(dead, moment) is not None
    assert await tried(lambda: letters.redrive(letter)) == Redriven(1)
    assert sorted(handler.handled) == [0, 1, 2, 3]
    with pytest.raises(SubscriptionStateError, match="resolved"):
        await letters.redrive(letter)


async def tried(redrive: Callable[[], Awaitable[Redriven]]) -> Redriven:
    """Do it as soon as nobody else has the letter."""
    pause = asyncio.Event()
    async with asyncio.timeout(20):
        while True:
            try:
                return await redrive()
            except SubscriptionStateError:
                with suppress(TimeoutError):
                    await asyncio.wait_for(pause.wait(), 0.001)


async def parked(store: Store, handler: Any) -> Letters[Any]:
    """Give the letters of subscription "t", whose *handler* has failed."""
    delivery: Delivery[Any] = Delivery(on_failure=PARK)
    async with subscribe(store, "t", handler, delivery) as subscription:
        await subscription.caught_up(SOON)
    return subscription.dead_letters


async def test_a_cancelled_redrive_gives_its_letter_free(store: Store) -> None:
    """The letter says that somebody tried; nobody has to wait, nothing is doubled."""
    await fill(store, 1)
    target, inside, fails = StreamName("model", "1"), asyncio.Event(), True
    never = asyncio.Event()

    async def apply(tx: Any, batch: Any) -> None:
        if fails:
            raise ValueError("no")
        new = [NewEvent(Fact(r.event.n), new_id()) for r in batch]
        await tx.append(Write(target, new, ANY))
        if not inside.is_set():
            inside.set()
            await never.wait()

    letters = await parked(store, Transactional(apply))
    (letter,) = await letters.list()
    fails = False
    redriving = asyncio.create_task(letters.redrive(letter))
    await asyncio.wait_for(inside.wait(), 20)
    redriving.cancel()
    await asyncio.wait([redriving])
    (left,) = await letters.list()
    assert left.status == "retrying"
    assert await letters.redrive_stream(left.stream or target) == Redriven(1)
    assert (await store.read_stream(target)).head == 1


@pytest.mark.parametrize("evsrc_back_end", ["postgresql", "postgresql-concurrent"])
async def test_who_was_taken_for_dead_while_trying_writes_nothing(
    store: Store,
) -> None:
    """It loses its lease in the handler: the other one's work stands, its own is undone.

    With the other back ends nobody can take a lease while a transaction is open.
    """
    await fill(store, 1)
    target, fails = StreamName("model", "1"), True
    inside, gate = asyncio.Event(), asyncio.Event()

    async def apply(tx: Any, batch: Any) -> None:
        if fails:
            raise ValueError("no")
        if not inside.is_set():  # before it has the lock of the log
            inside.set()
            await gate.wait()
        new = [NewEvent(Fact(r.event.n), new_id()) for r in batch]
        await tx.append(Write(target, new, ANY))

    letters = await parked(store, Transactional(apply))
    (letter,) = await letters.list()
    fails = False
    slow = asyncio.create_task(letters.redrive(letter))
    await asyncio.wait_for(inside.wait(), 20)
    (lease,) = await store.leases.list("t#letter/")
    await store.leases.release(lease)  # as if it had stood still for too long
    assert await letters.redrive(letter) == Redriven(1)
    gate.set()
    with pytest.raises(LeaseLostError, match=r"t#letter/.* is lost"):
        await slow
    assert (await store.read_stream(target)).head == 1
    (done,) = await letters.list()
    assert done.status == "resolved"


def test_a_long_redrive_keeps_its_lease() -> None:
    """It is renewed as long as the handler works, so nobody else comes in between."""
    run_virtually(asyncio.wait_for(redrive_for_long(), 60))


async def redrive_for_long() -> None:
    store = on_the_loops_clock()
    await fill(store, 1)
    inside, gate, handler = asyncio.Event(), asyncio.Event(), Handler({0})

    async def handle(recorded: Any) -> None:
        if not handler.poison:
            inside.set()
            await gate.wait()
        await handler.one(recorded)

    subscription = subscribe(store, "t", handle, Delivery(on_failure=PARK))
    async with subscription:
        await subscription.caught_up(SOON)
    handler.poison.clear()
    (letter,) = await subscription.dead_letters.list()
    with pytest.raises(ValueError, match="lasts for some time"):
        await subscription.dead_letters.redrive(letter, lease=timedelta(0))
    short = timedelta(milliseconds=300)
    redriving = asyncio.create_task(
        subscription.dead_letters.redrive(letter, lease=short)
    )
    await inside.wait()
    (first,) = await store.leases.list("t#letter/")
    for _ in range(100):
        with pytest.raises(SubscriptionStateError, match="somebody else"):
            await subscription.dead_letters.redrive(letter)
        await asyncio.sleep(0.01)
    (now,) = await store.leases.list("t#letter/")
    assert now.until > first.until + 2 * short
    gate.set()
    assert await redriving == Redriven(1)
    assert handler.handled == [0]


def _replaced(letter: DeadLetter, **changes: Any) -> DeadLetter:
    from msgspec.structs import replace as replace_struct

    return replace_struct(letter, **changes)


async def test_letters_that_are_not_there_are_refused(store: Store) -> None:
    """A letter that is gone, or whose event is in another log, is not re-driven."""
    await fill(store, 1)
    handler = Handler({0})
    subscription = subscribe(store, "t", handler.one, Delivery(on_failure=PARK))
    async with subscription:
        await subscription.caught_up(SOON)
    (letter,) = await subscription.dead_letters.list()
    strange = _replaced(letter, event_id=new_id())
    with pytest.raises(SubscriptionError, match="no dead letter of event"):
        await subscription.dead_letters.redrive(strange)
    await store.dead_letters.save(SaveDeadLetter(strange))
    with pytest.raises(SubscriptionError, match="not in the log"):
        await subscription.dead_letters.inspect(strange)


async def test_a_resolved_letter_commits_with_the_work(store: Store) -> None:
    """In a transaction the letter is resolved with what the handler wrote, or neither."""
    await fill(store, 1)
    target, fails = StreamName("model", "1"), True

    async def apply(tx: Any, batch: Any) -> None:
        new = [NewEvent(Fact(r.event.n), new_id()) for r in batch]
        await tx.append(Write(target, new, ANY))
        if fails:
            raise ValueError("no")

    letters = await parked(store, Transactional(apply))
    (letter,) = await letters.list()
    assert (await letters.redrive(letter)).resolved == 0
    assert (await store.read_stream(target)).head == 0
    fails = False
    assert (await letters.redrive(letter)).resolved == 1
    assert (await store.read_stream(target)).head == 1
    (done,) = await letters.list()
    assert (done.status, done.attempts) == ("resolved", 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_outage_is_waited_for(store: Store, kind: str) -> None:
    """While all events fail the circuit is open: nothing more is parked or passed."""
    await fill(store, 60)
    handler = Handler()
    handler.down = True
    moment = timedelta(milliseconds=2)
    breaker = Breaker(failures=3, pause=moment, longest=moment)
    delivery = delivery_of(kind, on_failure=PARK, breaker=breaker)
    async with subscribe(store, "o", handler.of(kind), delivery) as subscription:
        await until(lambda: handler.calls >= 40)
        status = subscription.status()
        assert status.state is State.CIRCUIT_OPEN
        assert not status.healthy
        assert status.alive
        assert isinstance(status.error, ValueError)
        assert subscription.parked == 2, "those before the third"
        handler.down = False
        await subscription.caught_up(SOON)
        assert subscription.healthy
    lost = await parked_in(store, "o")
    assert len(lost) == 2
    assert sorted([*handler.handled, *lost]) == list(range(60))


async def until(true: Callable[[], bool]) -> None:
    """Let the others work until something is so."""
    pause = asyncio.Event()
    async with asyncio.timeout(20):
        while not true():
            with suppress(TimeoutError):
                await asyncio.wait_for(pause.wait(), 0.001)


async def test_a_share_of_failures_opens_the_circuit(store: Store) -> None:
    """Two of three events that fail are no outage in a row, but half of ten are."""
    await fill(store, 60)
    handler = Handler({n for n in range(60) if n % 3})
    breaker = Breaker(failures=3, share=0.5, of=10, pause=timedelta(hours=1))
    delivery: Delivery[Any] = Delivery(on_failure=PARK, breaker=breaker)
    subscription = subscribe(store, "o", handler.one, delivery)
    subscription.start()
    await until(lambda: subscription.state is State.CIRCUIT_OPEN)
    assert subscription.position == 10, "the events 0 to 9 are decided"
    assert subscription.parked == 6
    started = asyncio.get_running_loop().time()
    await subscription.stop(SOON)
    assert asyncio.get_running_loop().time() - started < 10
    assert await store.checkpoints.load("o") == Checkpoint("o", 10)


async def test_many_poison_events_among_many(open_store: OpenStore) -> None:
    """One event in a hundred is poison: exactly those are parked, all else handled."""
    await among(await open_store(), 3_000, 30)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("evsrc_back_end", ["sqlite", "postgresql"])
async def test_a_thousand_poison_events_among_a_hundred_thousand(
    open_store: OpenStore,
) -> None:
    """The same with 1,000 among 100,000."""
    await among(await open_store(), 100_000, 1_000)


async def among(store: Store, count: int, poisoned: int) -> None:
    for n in range(0, count, 500):
        new = [NewEvent(Fact(n + i), new_id()) for i in range(500)]
        await store.append(Write(StreamName("s", str(n % 7)), new, ANY))
    poison = set(range(7, count, count // poisoned))
    assert len(poison) == poisoned
    handler = Handler(poison)
    policy = retry_then(Park(), retries=1, delay=QUICK)
    async with subscribe(
        store, "many", handler.one, Delivery(on_failure=policy)
    ) as subscription:
        await subscription.caught_up(timedelta(minutes=5))
    assert handler.handled == [n for n in range(count) if n not in poison]
    letters = await store.dead_letters.list("many", limit=count)
    positions = sorted(letter.position for letter in letters)
    assert positions == sorted(n + 1 for n in poison)
    print(f"S4: {len(letters)} of {count} parked, the rest handled, 0 lost")
    await store.close()
