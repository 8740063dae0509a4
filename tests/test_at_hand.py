"""A subscription that waits is handed what was committed, and is told nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from evsrc import Batched, Delivery, Query, State, Write, subscribe
from evsrc.core.codec import Envelope
from evsrc.core.errors import DuplicateEventError, SerializationError
from evsrc.core.event import NO_METADATA, Metadata, NewEvent, Recorded
from evsrc.core.expectation import ANY
from evsrc.ports import Appended, AtHand, EventStore, Page
from evsrc.runtime.subscribe import Subscription
from evsrc.testing import CODEC
from evsrc.testing._bench import SOON, A, B, Tagged, new, put
from tests.conftest import OpenStore
from tests.guarantees.test_poison import until

Store = EventStore[Any]
SHARED = "sqlite", "postgresql", "postgresql-concurrent"
HANDED = "sqlite", "sqlite-memory", "postgresql"


class Seen:
    """A handler that notes numbers, and the size of each batch."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.batches: list[int] = []

    async def one(self, recorded: Recorded[Any]) -> None:
        self.numbers.append(recorded.event.n)

    async def many(self, events: Sequence[Recorded[Any]]) -> None:
        self.batches.append(len(events))
        self.numbers += [recorded.event.n for recorded in events]


@asynccontextmanager
async def waiting(
    store: Store, handle: Any, delivery: Delivery[Any] | None = None
) -> AsyncGenerator[Subscription[Any]]:
    """Give a subscription that waits for more."""
    delivery = delivery or Delivery()
    async with subscribe(store, "waiting", handle, delivery) as subscription:
        await subscription.caught_up(SOON)
        await until(lambda: subscription._run.waiting is not None)
        yield subscription


async def append(store: Store, *events: Any) -> int:
    return (await put(store, *events)).position


@pytest.mark.parametrize("evsrc_back_end", HANDED, indirect=True)
async def test_what_was_committed_is_not_read(store: Store) -> None:
    """Who waits for just that gets it; who waits elsewhere reads."""
    await append(store, 1, 2)
    here = asyncio.create_task(store.changed(2, timeout=SOON))
    second = asyncio.create_task(store.changed(2, timeout=SOON))
    beyond = asyncio.create_task(store.changed(3, timeout=SOON))
    await asyncio.sleep(0)
    await append(store, 3, Tagged(4, ("x",)))
    at_hand = await here
    assert at_hand is not None
    assert at_hand.read_all == store.read_all
    assert at_hand.page == await store.read_all(after=2)
    assert await second is None  # it gets events of its own, by reading
    assert await beyond is None


@pytest.mark.parametrize("evsrc_back_end", ["postgresql-concurrent"], indirect=True)
async def test_where_positions_have_holes_nothing_is_at_hand(store: Store) -> None:
    """Another process's event may have a position between two of ours."""
    for n in range(3):
        here = asyncio.create_task(store.changed(await store.head(), timeout=SOON))
        await asyncio.sleep(0)
        await append(store, n)
        assert await here is None


@pytest.mark.parametrize("evsrc_back_end", HANDED, indirect=True)
async def test_those_who_fly_alone_are_read_right(store: Store) -> None:
    """Next to an append that fails, each is recorded at a time of its own."""
    used = new(0)
    await store.append(Write(A, used, ANY))
    for n in range(1, 9, 2):
        head = await store.head()
        here = asyncio.create_task(store.changed(head, timeout=SOON))
        await asyncio.sleep(0)
        writes = [Write(B, new(n), ANY), Write(B, used, ANY), Write(A, new(n + 1), ANY)]
        one, failed, other = await asyncio.gather(
            *(store.append(write) for write in writes), return_exceptions=True
        )
        assert isinstance(one, Appended)
        assert isinstance(other, Appended)
        assert isinstance(failed, DuplicateEventError)
        at_hand, read = await here, await store.read_all(after=head)
        assert len(read.events) == 2
        handed = at_hand.page.events if at_hand else ()
        assert handed == read.events[: len(handed)]  # perhaps the first went ahead


@pytest.mark.parametrize("evsrc_back_end", HANDED, indirect=True)
async def test_one_after_the_other_is_handed_over_as_it_is_read(
    open_store: OpenStore,
) -> None:
    """With what its envelope says, for codecs that ask for that."""

    def restore(type: str, data: bytes, envelope: Envelope) -> Any:
        return CODEC.decode(type, data), envelope

    async with await open_store(replace(CODEC, restore=restore)) as store:
        for n in range(6):
            head = await store.head()
            here = asyncio.create_task(store.changed(head, timeout=SOON))
            await asyncio.sleep(0)
            metadata = Metadata(actor_id="ann") if n % 2 else NO_METADATA
            event = NewEvent[Any](Tagged(n), uuid4(), metadata)
            await store.append(Write(A, [event], n))
            at_hand = await here
            assert at_hand is not None
            assert at_hand.page == await store.read_all(after=head)


async def test_a_store_that_reads_otherwise_is_read(store: Store) -> None:
    """Events that a wrapped `read_all` leaves out are not delivered to those who wait."""
    seen = Seen()

    async def read_all(*asked: Any, **how: Any) -> Any:
        page = await store.read_all(*asked, **how)
        even = [recorded for recorded in page.events if recorded.event.n % 2 == 0]
        return Page(tuple(even), page.reached, page.head)

    async with waiting(replace(store, read_all=read_all), seen.one) as subscription:
        await append(store, 1)
        await append(store, 2)
        await subscription.wait_for(await append(store, 3, 4, 5), SOON)
    assert seen.numbers == [2, 4]


@pytest.mark.parametrize(
    "query",
    [
        Query.of(types=["tagged"]),
        Query.of(tags=["x"]),
        Query.of(categories=["suite"], tags=["x"]),
    ],
)
async def test_who_waits_is_given_what_he_asked_for(store: Store, query: Query) -> None:
    """The query holds for events that come while the subscription waits."""
    seen = Seen()
    async with waiting(store, seen.one, Delivery(query=query)) as subscription:
        await append(store, 1)
        await append(store, Tagged(2, ("x",)), 3)
        last = await append(store, 4)
        await subscription.wait_for(last, SOON)
        assert subscription.status().position == last
    assert seen.numbers == [2]


async def test_a_page_is_no_longer_than_it_may_be(store: Store) -> None:
    """A batch handler gets at most `page` events, however many came at once."""
    seen = Seen()
    many = Delivery(page=2)
    async with waiting(store, Batched(seen.many), many) as subscription:
        await append(store, 0)
        await subscription.wait_for(await append(store, *range(1, 6)), SOON)
    assert seen.numbers == [0, 1, 2, 3, 4, 5]
    assert max(seen.batches) == 2


async def test_what_is_too_much_to_hand_over_is_read(store: Store) -> None:
    """Hundreds of events at once reach who waits as well."""
    seen = Seen()
    async with waiting(store, seen.one) as subscription:
        await subscription.wait_for(await append(store, *range(300)), SOON)
    assert seen.numbers == list(range(300))


async def test_what_does_not_follow_is_not_delivered(store: Store) -> None:
    """A store that hands over an old page again is read instead."""
    seen = Seen()

    async def changed(position: int, *, timeout: timedelta) -> Any:
        await store.changed(position, timeout=timeout)
        page = await store.read_all()
        return AtHand(store.read_all, page) if page.events else None

    async with waiting(replace(store, changed=changed), seen.one) as subscription:
        for n in range(3):
            await subscription.wait_for(await append(store, n), SOON)
    assert seen.numbers == [0, 1, 2]


@pytest.mark.parametrize("evsrc_back_end", SHARED, indirect=True)
async def test_what_came_between_is_not_left_out(open_store: OpenStore) -> None:
    """Another process's event, not noticed yet, comes before ours."""
    seen = Seen()
    async with (
        await open_store() as ours,
        await open_store() as other,
        waiting(ours, seen.one) as subscription,
    ):
        await append(other, 1)
        await subscription.wait_for(await append(ours, 2), SOON)
    assert seen.numbers == [1, 2]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("evsrc_back_end", HANDED, indirect=True)
async def test_what_cannot_be_read_stops_who_waits(
    open_store: OpenStore, alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that cannot be decoded is not passed because it was at hand."""

    def decode(type: str, data: bytes) -> Any:
        if b'"n":13' in data:
            raise SerializationError(type, "it is 13")
        return CODEC.decode(type, data)

    seen = Seen()
    codec = replace(CODEC, decode=decode, decoder=None)
    async with (
        await open_store(codec) as store,
        waiting(store, seen.one) as subscription,
    ):
        for numbers in ([11], [12]) if alone else ([11, 12],):
            await subscription.wait_for(await append(store, *numbers), SOON)
            await until(lambda: subscription._run.waiting is not None)
        await append(store, *([13] if alone else [13, 14]))
        await until(lambda: subscription.state is State.FAILED)
        assert isinstance(subscription.error, SerializationError)
    assert seen.numbers == [11, 12]
    assert "asyncio" not in {record.name for record in caplog.records}


async def test_a_live_subscription_stays_live(store: Store) -> None:
    """It catches up when there is more than the page in hand, not at each event."""
    await append(store, *range(5))
    states: dict[int, State] = {}

    async def handle(recorded: Recorded[Any]) -> None:
        states[recorded.position] = subscription.state

    subscription = subscribe(store, "live", handle, Delivery(page=2))
    async with subscription:
        await subscription.caught_up(SOON)
        assert set(states.values()) == {State.CATCHING_UP}
        last = await append(store, 5)
        await subscription.wait_for(last, SOON)
        assert states[last] is State.LIVE
        last = await append(store, *range(6, 12))
        await subscription.wait_for(last, SOON)
        assert State.CATCHING_UP in list(states.values())[6:]
    assert len(states) == 12
