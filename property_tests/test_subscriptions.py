"""Crashes, failures and appends in any mixture: the subscription loop loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from evsrc import (
    ANY,
    Delivery,
    NewEvent,
    Park,
    StreamName,
    Write,
    memory_store,
    retry_then,
)
from evsrc.core.snapshot import Snapshotting, every
from evsrc.core.view import View
from evsrc.ports import EventStore
from evsrc.runtime.delivery import Parked
from evsrc.runtime.project import project
from evsrc.runtime.subscribe import subscribe
from evsrc.testing import CODEC, Fact, intercepted

SOON = timedelta(seconds=20)


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
        return intercepted(store, self.step, ports=PLANNED)


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
        for _ in range(len(crashes) + 1):
            projection = project(
                plan.over(store), "p", COUNT, KEEP, Delivery(page=page)
            )
            if not await crashed(projection.subscription, count):
                break
        assert projection.state == tuple(range(count))
        again = project(store, "p", COUNT, KEEP)
        async with again:
            await again.subscription.caught_up(SOON)
        assert again.state == tuple(range(count))
        assert again.subscription.handled == 0

    asyncio.run(main())
