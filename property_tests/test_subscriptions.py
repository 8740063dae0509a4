"""Crashes, failures and appends in any mixture: the subscription loop loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

from hypothesis import example, given
from hypothesis import strategies as st

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
    memory_store,
    retry_then,
)
from evsrc.core.snapshot import Snapshotting, every
from evsrc.core.view import View
from evsrc.ports import EventStore, Transaction
from evsrc.runtime.delivery import Parked
from evsrc.runtime.project import project
from evsrc.runtime.projection import ViewProjection
from evsrc.runtime.subscribe import subscribe
from evsrc.testing import CODEC, Fact, intercepted

SOON = timedelta(seconds=20)
MODEL = StreamName("model", "1")


class Crash(BaseException):
    """The process ends here."""


class Plan:
    """Crash at the awaits whose turn it is."""

    def __init__(self, turns: list[int]) -> None:
        self.turns = list(turns)
        self.left = self.turns.pop(0) if self.turns else -1

    async def step(self, _: str, call: Callable[[], Awaitable[Any]], /) -> Any:
        self.tick()
        result = await call()
        self.tick()
        return result

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.left = self.turns.pop(0) if self.turns else -1
            raise Crash

    def over(self, store: EventStore[Any]) -> EventStore[Any]:

        @asynccontextmanager
        async def transaction() -> AsyncIterator[Transaction[Any]]:
            self.tick()
            async with store.transaction() as tx:
                yield tx
                self.tick()
            self.tick()

        planned = intercepted(store, self.step, ports=PLANNED)
        return replace(planned, transaction=transaction)


PLANNED = (
    "append",
    "read_all",
    "checkpoints.load",
    "checkpoints.save",
    "snapshots.load",
)


async def filled(count: int) -> EventStore[Any]:
    store: EventStore[Any] = memory_store(CODEC)
    for n in range(count):
        stream = StreamName("s", str(n % 3))
        await store.append(Write(stream, [NewEvent(Fact(n), uuid4())], ANY))
    return store


turns = st.lists(st.integers(1, 40), max_size=8)


@given(
    count=st.integers(0, 30),
    page=st.integers(1, 9),
    crashes=turns,
    poison=st.frozensets(st.integers(0, 29), max_size=5),
)
def test_everything_is_handled_or_parked(
    count: int, page: int, crashes: list[int], poison: frozenset[int]
) -> None:
    """However it crashes, each event is handled or parked, in order, none is lost."""

    async def main() -> None:
        store, plan = await filled(count), Plan(crashes)
        handled: list[int] = []
        parked: list[int] = []

        async def handle(recorded: Any) -> None:
            plan.tick()
            if recorded.event.n in poison:
                raise ValueError(recorded.event.n)
            handled.append(recorded.event.n)
            plan.tick()

        async def park(event: Parked[Any]) -> None:
            parked.append(event.recorded.event.n)

        policy = retry_then(Park(), retries=1, delay=timedelta(microseconds=1))
        delivery: Delivery[Any] = Delivery(page=page, on_failure=policy, park=park)
        for _ in range(len(crashes) + 1):
            if await crashed(subscribe(plan.over(store), "s", handle, delivery), count):
                saved = await store.checkpoints.load("s")
                passed = set(range(saved.position if saved else 0))
                assert passed <= {*handled, *parked}
            else:
                break
        assert set(handled) == set(range(count)) - poison
        assert set(parked) == set(range(count)) & poison
        steps_back = sum(b < a for a, b in pairwise(handled))
        assert steps_back <= len(crashes)

    asyncio.run(main())


async def crashed(subscription: Any, count: int) -> bool:
    """Run a subscription to the end of the log; tell whether it crashed on the way."""
    subscription.start()
    task = subscription._task
    reaching = asyncio.create_task(subscription.wait_for(count, SOON))
    await asyncio.wait([task, reaching], return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        await subscription.stop(SOON)
    reaching.cancel()
    await asyncio.wait([task, reaching])
    return task.exception() is not None


@given(
    count=st.integers(0, 30),
    page=st.integers(1, 9),
    crashes=turns,
    poison=st.frozensets(st.integers(0, 29), max_size=5),
    kind=st.sampled_from(["events", "batches", "streams", "transactions"]),
    hold=st.booleans(),
)
@example(
    count=6, page=5, crashes=[7], poison=frozenset([4]), kind="streams", hold=True
)  # 1 comes again when 4 is parked
def test_every_kind_parks_what_it_must(
    count: int,
    page: int,
    crashes: list[int],
    poison: frozenset[int],
    kind: str,
    hold: bool,
) -> None:
    """However it crashes, exactly the poison is parked, and what waits behind it."""

    async def main() -> None:
        store, plan = await filled(count), Plan(crashes)
        handled: list[int] = []

        async def all_of(batch: Sequence[Any]) -> None:
            plan.tick()
            if not poison.isdisjoint(recorded.event.n for recorded in batch):
                raise ValueError
            handled.extend(recorded.event.n for recorded in batch)

        async def one(recorded: Any) -> None:
            await all_of([recorded])

        async def apply(tx: Transaction[Any], batch: Sequence[Any]) -> None:
            await all_of(batch)
            new = [NewEvent(Fact(r.event.n), uuid4()) for r in batch]
            await tx.append(Write(MODEL, new, ANY))

        handlers = {"batches": Batched(all_of), "transactions": Transactional(apply)}
        delivery: Delivery[Any] = Delivery(
            query=Query.of(categories=["s"]),
            page=page,
            on_failure=retry_then(Park(), retries=0),
            hold_streams=hold,
            max_streams=2 if kind == "streams" else 1,
        )
        handler: Any = handlers.get(kind, one)
        for _ in range(len(crashes) + 1):
            subscription = subscribe(plan.over(store), "s", handler, delivery)
            if not await crashed(subscription, count):
                break
        bad = {n for n in poison if n < count}
        behind = {n for n in range(count) if any(p < n and p % 3 == n % 3 for p in bad)}
        aside = bad | behind if hold else bad
        assert set(handled) == set(range(count)) - aside
        letters = await store.dead_letters.list("s")
        assert {letter.position for letter in letters} == {n + 1 for n in aside}
        model = [r.event.n for r in (await store.read_stream(MODEL)).events]
        assert model == (sorted(set(handled)) if kind == "transactions" else [])

    asyncio.run(main())


COUNT: View[tuple[int, ...], Any] = View((), lambda seen, r: (*seen, r.event.n))
KEEP: Snapshotting[tuple[int, ...]] = Snapshotting(
    dump=lambda state: ",".join(map(str, state)).encode(),
    load=lambda raw: tuple(int(n) for n in raw.decode().split(",") if n),
    due=every(1),
)


@given(count=st.integers(0, 30), page=st.integers(1, 9), crashes=turns)
def test_a_projection_folds_each_event_once(
    count: int, page: int, crashes: list[int]
) -> None:
    """However it crashes, the kept read model is the fold of the log: no doubles."""

    async def main() -> None:
        store, plan = await filled(count), Plan(crashes)
        counting = ViewProjection(name="p", view=COUNT, keep=KEEP)
        for _ in range(len(crashes) + 1):
            projection = project(plan.over(store), counting, Delivery(page=page))
            if not await crashed(projection.subscription, count):
                break
        assert projection.state == tuple(range(count))
        again = project(store, counting)
        async with again:
            await again.subscription.caught_up(SOON)
        assert again.state == tuple(range(count))
        assert again.subscription.handled == 0

    asyncio.run(main())
