"""The scenarios that evsrc itself is simulated with."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from msgspec import Struct

from evsrc import (
    ANY,
    Decider,
    Delivery,
    Fence,
    LeaseLostError,
    NewEvent,
    Recorded,
    StateCache,
    StreamName,
    Write,
    new_id,
)
from evsrc.core.snapshot import Snapshotting, every
from evsrc.core.view import View
from evsrc.testing import Fact, Worker, World


class Deposited(Struct, frozen=True):
    amount: int


class Withdrawn(Struct, frozen=True):
    amount: int


class TooLittleError(Exception):
    """There is not enough on the account."""


def decide(balance: int, amount: int) -> list[Any]:
    if amount > 0:
        return [Deposited(amount)]
    if balance < -amount:
        raise TooLittleError(balance)
    return [Withdrawn(-amount)]


def evolve(balance: int, event: Any) -> int:
    change = event.amount if isinstance(event, Deposited) else -event.amount
    return balance + change


ACCOUNT: Decider[int, int, Any] = Decider(decide, evolve, 0)
TURNOVER: View[int, Recorded[Any]] = View(0, lambda sum, r: sum + r.event.amount)
KEEP = Snapshotting(dump=lambda sum: str(sum).encode(), load=int, due=every(1))


async def bank(world: World) -> None:
    """Three tills pay in and out of two accounts; readers follow the log."""
    accounts = [StreamName("account", name) for name in ("ann", "bob")]

    async def till(worker: Worker) -> None:
        cache: StateCache[int] = StateCache()
        for n in range(5):
            amount = (3, -2, -3, 4, -5)[(n + int(worker.name[-1])) % 5]
            account = accounts[n % 2]
            try:
                await worker.transact(ACCOUNT, account, amount, cache=cache)
            except TooLittleError:
                continue

    async def mail(worker: Worker) -> None:
        async def handle(_: Any) -> None: ...

        await worker.subscribe("mail", handle, Delivery(page=3))

    async def ledger(worker: Worker) -> None:
        async def handle(_: Any) -> None: ...

        await worker.subscribe("ledger", handle, Delivery(page=6, max_streams=3))

    async def turnover(worker: Worker) -> None:
        await worker.project("turnover", TURNOVER, KEEP, Delivery(page=4))

    for n in range(3):
        world.run(f"till-{n}", till)
    world.serve("mail", mail)
    world.serve("ledger", ledger)
    world.serve("turnover", turnover)


TTL = timedelta(milliseconds=300)
DESK = StreamName("desk", "one")


async def desk(world: World) -> None:
    """Two clerks share a desk by a lease; sometimes one is away for longer than it is."""

    async def clerk(worker: Worker) -> None:
        leases = worker.store.leases
        for n in range(6):
            lease = await leases.acquire("desk", worker.name, TTL)
            if lease is not None:
                await asyncio.sleep(world.chance.random() * 2 * TTL.total_seconds())
                write = Write(DESK, [NewEvent(Fact(n), new_id())], ANY)
                with suppress(LeaseLostError):
                    fence = Fence(lease.name, lease.token)
                    await worker.store.append(write, also=[fence])
                await leases.release(lease)
            await asyncio.sleep(world.chance.random() * 0.1)

    for name in ("ann", "bob"):
        world.run(name, clerk)
