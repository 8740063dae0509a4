"""S1 and S2 for every kind of handler: a crash at each await loses and doubles nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from evsrc import (
    ANY,
    Batched,
    Delivery,
    NewEvent,
    Park,
    Query,
    StreamName,
    Transactional,
    Write,
    new_id,
    retry_then,
    subscribe,
)
from evsrc.ports import EventStore, Transaction
from evsrc.testing import Fact
from tests.guarantees.test_subscriptions import SOON, Crash, fill

Store = EventStore[Any]
EVENTS = 24
POISON = {8, 22}
MODEL = StreamName("model", "1")
PARK = retry_then(Park(), retries=1, delay=timedelta(microseconds=1))


class Plan:
    """Crash in the n-th await of anything of the store's or the handler's."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.crashed = False

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.crashed = True
            raise Crash

    async def around(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self.tick()
        result = await call()
        self.tick()
        return result

    def step(self, call: Callable[..., Awaitable[Any]]) -> Any:
        return lambda *a, **k: self.around(lambda: call(*a, **k))

    def over(self, store: Store) -> Store:
        kept, letters = store.checkpoints, store.dead_letters

        @asynccontextmanager
        async def transaction() -> AsyncIterator[Transaction[Any]]:
            self.tick()
            async with store.transaction() as tx:
                yield replace(tx, append=self.step(tx.append))
                self.tick()
            self.tick()

        return replace(
            store,
            append=self.step(store.append),
            transaction=transaction,
            read_all=self.step(store.read_all),
            changed=self.step(store.changed),
            checkpoints=replace(
                kept, load=self.step(kept.load), save=self.step(kept.save)
            ),
            dead_letters=replace(
                letters, get=self.step(letters.get), streams=self.step(letters.streams)
            ),
        )


def refuse(numbers: Sequence[int]) -> None:
    if not POISON.isdisjoint(numbers):
        raise ValueError(numbers)


def handler_of(kind: str, plan: Plan, handled: list[int]) -> Any:
    """Make a handler of one kind that notes what it has done, or has it in the log."""

    async def note(recorded: Any) -> None:
        plan.tick()
        refuse([recorded.event.n])
        handled.append(recorded.event.n)
        plan.tick()

    async def note_all(batch: Sequence[Any]) -> None:
        plan.tick()
        refuse([recorded.event.n for recorded in batch])
        handled.extend(recorded.event.n for recorded in batch)
        plan.tick()

    async def write(tx: Transaction[Any], batch: Sequence[Any]) -> None:
        refuse([recorded.event.n for recorded in batch])
        model = [NewEvent(Fact(recorded.event.n), new_id()) for recorded in batch]
        await tx.append(Write(MODEL, model, ANY))

    match kind:
        case "batches":
            return Batched(note_all)
        case "transactions":
            return Transactional(write)
        case _:
            return note


async def deliver(subscription: Any, until: int) -> None:
    """Run a subscription up to a position; raise the Crash that it dies of."""
    subscription.start()
    task = subscription._task
    reached = asyncio.create_task(subscription.wait_for(until, SOON))
    await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    if not task.done():
        await subscription.stop(SOON)
    await asyncio.wait([task, reached])
    if task.exception() is not None:
        raise task.exception()
    assert subscription.error is None


@pytest.mark.parametrize("kind", ["events", "batches", "streams", "transactions"])
async def test_s1_s2_a_crash_at_every_await(store: Store, kind: str) -> None:
    """For each n it crashes at its n-th await; the next run completes the work."""
    await fill(store, EVENTS)
    places = {r.event.n: r for r in (await store.read_all()).events}
    end, at = max(r.position for r in places.values()), 1
    while True:
        name, plan, handled = f"crash-{at}", Plan(at), list[int]()
        delivery: Delivery[Any] = Delivery(
            query=Query.of(categories=["s"]),
            page=7,
            on_failure=PARK,
            max_streams=3 if kind == "streams" else 1,
        )
        try:
            handler = handler_of(kind, plan, handled)
            await deliver(subscribe(plan.over(store), name, handler, delivery), end)
        except Crash:
            await passed_nothing(store, name, places, handled, kind)
            handler = handler_of(kind, Plan(0), handled)
            await deliver(subscribe(store, name, handler, delivery), end)
        letters = await store.dead_letters.list(name)
        assert {places[n].id for n in POISON} == {x.event_id for x in letters}
        done = await model_of(store) if kind == "transactions" else handled
        assert set(done) == set(places) - POISON
        if kind == "transactions":
            assert len(done) == len(set(done)), "handled exactly once"
        if kind != "streams":
            assert sum(b < a for a, b in zip(done, done[1:], strict=False)) <= 1
        assert in_order_by_stream(done, places)
        saved = await store.checkpoints.load(name)
        assert saved is not None
        assert saved.position >= end, "the model's own events may be passed, too"
        if not plan.crashed:
            break
        at += 1
    print(f"S1: {kind} crashed at each of {at - 1} awaits, 0 lost")
    assert at > (20 if kind in ("batches", "transactions") else 60)


async def model_of(store: Store) -> list[int]:
    """Give what transactions have written since this was asked last."""
    page = await store.read_stream(MODEL, after=MODEL_READ.get(id(store), 0))
    MODEL_READ[id(store)] = page.head
    return [recorded.event.n for recorded in page.events]


MODEL_READ: Counter[int] = Counter()


async def passed_nothing(
    store: Store, name: str, places: dict[int, Any], handled: list[int], kind: str
) -> None:
    """The checkpoint has passed no event that was neither handled nor parked."""
    saved = await store.checkpoints.load(name)
    position = saved.position if saved else 0
    passed = {n for n, r in places.items() if r.position <= position}
    parked = {x.event_id for x in await store.dead_letters.list(name)}
    kept = {n for n in POISON if places[n].id in parked}
    if kind == "transactions":
        page = await store.read_stream(MODEL, after=MODEL_READ.get(id(store), 0))
        assert passed - kept == {r.event.n for r in page.events}
    else:
        assert passed <= set(handled) | kept


def in_order_by_stream(done: Sequence[int], places: dict[int, Any]) -> bool:
    """Within a stream it goes forward, but for one step back after the crash."""
    lanes: dict[StreamName, list[int]] = {}
    for n in done:
        lanes.setdefault(places[n].stream, []).append(places[n].version)
    return all(
        sum(b <= a for a, b in zip(lane, lane[1:], strict=False)) <= 1
        for lane in lanes.values()
    )
