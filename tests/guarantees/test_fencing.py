"""Partitions and fences: what one worker of several may deliver, and may save."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from evsrc import Delivery, Fence, LeaseLostError, subscribe
from evsrc.core.snapshot import Snapshotting, every
from evsrc.core.view import View
from evsrc.ports import Also, Checkpoint, EventStore
from evsrc.runtime.delivery import State
from evsrc.runtime.project import project
from evsrc.runtime.projection import ViewProjection
from tests.guarantees.test_subscriptions import SOON, fill

Store = EventStore[Any]
TTL = timedelta(seconds=60)


async def fences(store: Store, *, stolen: bool) -> tuple[Also, ...]:
    """Take the lease; give its fence, after it was taken over if *stolen*."""
    lease = await store.leases.acquire("work", "me", TTL)
    assert lease is not None
    if stolen:
        await store.leases.release(lease)
        assert await store.leases.acquire("work", "other", TTL) is not None
    return (Fence(lease.name, lease.token),)


async def ended(subscription: Any) -> None:
    await asyncio.wait_for(subscription._task, 20)


async def test_a_fence_is_checked_with_each_checkpoint(store: Store) -> None:
    """Whoever has the lease moves the checkpoint; the fence is asked for each time."""
    await fill(store, 30)
    fence, asked = await fences(store, stolen=False), 0

    def also() -> tuple[Also, ...]:
        nonlocal asked
        asked += 1
        return fence

    async def handle(_: Any) -> None: ...

    delivery: Delivery[Any] = Delivery(page=10, also=also)
    async with subscribe(store, "w", handle, delivery) as subscription:
        await subscription.caught_up(SOON)
    assert asked == 3
    assert await store.checkpoints.load("w") == Checkpoint("w", await store.head())


async def test_a_worker_without_its_lease_moves_no_checkpoint(store: Store) -> None:
    """It ends with the LeaseLostError, and its checkpoint stays where it was."""
    await fill(store, 30)
    fence = await fences(store, stolen=True)

    async def handle(_: Any) -> None: ...

    delivery: Delivery[Any] = Delivery(page=10, also=lambda: fence)
    async with subscribe(store, "w", handle, delivery) as subscription:
        await ended(subscription)
        assert subscription.state is State.FAILED
        assert isinstance(subscription.error, LeaseLostError)
    assert await store.checkpoints.load("w") is None


async def test_a_worker_without_its_lease_keeps_no_read_model(store: Store) -> None:
    """The fence is checked in the transaction of a projection's state, too."""
    await fill(store, 10)
    fence = await fences(store, stolen=True)
    count: View[int, Any] = View(0, lambda n, _: n + 1)
    keep = Snapshotting(dump=lambda n: str(n).encode(), load=int, due=every(1))
    delivery: Delivery[Any] = Delivery(also=lambda: fence)
    definition = ViewProjection(name="n", view=count, keep=keep)
    async with project(store, definition, delivery) as projection:
        await ended(projection.subscription)
        assert isinstance(projection.subscription.error, LeaseLostError)
    assert await store.checkpoints.load("n") is None
    assert await store.snapshots.load("n") is None


async def test_a_fence_needs_the_checkpoints_of_the_store(store: Store) -> None:
    """Checkpoints that are kept elsewhere cannot be fenced: that is refused."""
    with pytest.raises(ValueError, match="one transaction"):
        Delivery(checkpoints=store.checkpoints, also=lambda: (Fence("work", 1),))


async def test_a_partition_delivers_its_streams_only(store: Store) -> None:
    """Two partitions give each event to one of them, in order, and both get on."""
    await fill(store, 60)
    handled: dict[str, list[Any]] = {"even": [], "odd": []}
    for name, rest in (("even", 0), ("odd", 1)):

        async def handle(recorded: Any, name: str = name) -> None:
            handled[name].append(recorded)

        delivery: Delivery[Any] = Delivery(
            page=7, streams=lambda stream, rest=rest: int(stream.id) % 2 == rest
        )
        async with subscribe(store, name, handle, delivery) as subscription:
            await subscription.caught_up(SOON)
            assert subscription.position == await store.head()
    assert {r.stream.id for r in handled["even"]} == {"0", "2"}
    assert {r.stream.id for r in handled["odd"]} == {"1"}
    for records in handled.values():
        assert records == sorted(records, key=lambda r: r.position)
    assert len(handled["even"]) + len(handled["odd"]) == 60
