"""On uvloop the stores and their subscriptions do what they do on asyncio's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from uuid import uuid4

import pytest

from evsrc import ANY, Appended, NewEvent, Recorded, StreamName, Write, subscribe
from evsrc.ports import EventStore
from evsrc.testing import Check, Fact, store_checks
from tests.conftest import OpenStore

uvloop = pytest.importorskip("uvloop", reason="there is none for this system")


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@pytest.mark.parametrize("check", store_checks, ids=lambda check: check.__name__)
def test_store_passes(check: Check, open_store: OpenStore) -> None:
    """The store keeps the promise."""

    async def main() -> None:
        async with await open_store() as store:
            await check(store)

    run(main())


def test_a_subscription_sees_each_event_once_and_in_order(
    open_store: OpenStore,
) -> None:
    """While tasks append: as it catches up, live, and when it is resumed."""
    handled: list[Recorded[Any]] = []

    async def handle(recorded: Recorded[Any]) -> None:
        handled.append(recorded)

    async def append(store: EventStore[Any], name: str, count: int) -> None:
        stream = StreamName("s", name)
        for n in range(1, count):
            news = [NewEvent(Fact(n), uuid4()) for _ in range(n % 3 + 1)]
            assert isinstance(await store.append(Write(stream, news, ANY)), Appended)

    async def main() -> None:
        async with await open_store() as store:
            await append(store, "first", 9)
            for n in range(3):
                async with subscribe(store, "s@1", handle) as subscription:
                    async with asyncio.TaskGroup() as group:
                        for task in range(4):
                            group.create_task(append(store, f"{n}-{task}", 9))
                    await subscription.caught_up()
                assert handled == list((await store.read_all(limit=1000)).events)
            saved = await store.checkpoints.load("s@1")
            assert saved is not None
            assert saved.position == await store.head() == handled[-1].position

    run(main())
