"""Lose a worker and go on: two processes share a subscription, one is killed.

Run it without arguments. It starts the workers itself, as processes of this file.
"""

import asyncio
import logging
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import Struct

from evsrc import (
    ANY,
    EventStoreRecord,
    Recorded,
    StreamName,
    Transaction,
    Transactional,
    Write,
    json_codec,
    new_event,
    sqlite_store,
    work,
)


class Ordered(Struct, frozen=True):
    """A customer has ordered something."""

    item: str


CODEC = json_codec({"ordered": Ordered})
ORDERS = 200


async def deliver(path: str, owner: str) -> None:
    """Be one of the workers, until the end."""

    async def apply(
        tx: Transaction[Ordered], events: Sequence[Recorded[Ordered]]
    ) -> None:
        rows = [(recorded.stream.id, recorded.event.item, owner) for recorded in events]
        await tx.connection.executemany("INSERT INTO parcel VALUES (?, ?, ?)", rows)

    store = await sqlite_store(path, CODEC)
    lease = timedelta(seconds=1)
    worker = work(
        store, "parcels", Transactional(apply), owner=owner, partitions=4, lease=lease
    )
    async with store, worker:
        await asyncio.Event().wait()


async def start(path: str, owner: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, path, owner, stderr=asyncio.subprocess.DEVNULL
    )


async def shares(store: EventStoreRecord[Ordered]) -> Counter[str]:
    """Count the partitions that each worker has."""
    leases = await store.leases.list("parcels#")
    return Counter(lease.owner for lease in leases if "worker" not in lease.name)


async def order(store: EventStoreRecord[Ordered], numbers: range) -> None:
    for n in numbers:
        stream = StreamName("customer", str(n % 10))
        await store.append(Write(stream, [new_event(Ordered(f"item {n}"))], ANY))


async def query(store: EventStoreRecord[Ordered], sql: str) -> list[tuple[Any, ...]]:
    async with store.transaction() as tx:
        rows: list[tuple[Any, ...]] = await tx.connection.fetchall(sql)
        return rows


async def moment(store: EventStoreRecord[Ordered]) -> None:
    await store.changed(await store.head(), timeout=timedelta(milliseconds=100))


async def show(path: str) -> None:
    async with await sqlite_store(path, CODEC) as store:
        await query(store, "CREATE TABLE parcel (customer, item, worker)")
        ann, bob = [await start(path, owner) for owner in ("ann", "bob")]
        try:
            while await shares(store) != {"ann": 2, "bob": 2}:
                await moment(store)
            print("ann and bob have 2 partitions each")

            await order(store, range(ORDERS // 2))
            ann.kill()  # in the middle of its work: nothing is released
            print("ann is killed")

            await order(store, range(ORDERS // 2, ORDERS))
            while await shares(store) != {"bob": 4}:
                await moment(store)
            print("bob has 4 partitions")

            sent = "SELECT count(*), count(DISTINCT item) FROM parcel"
            while await query(store, sent) < [(ORDERS, ORDERS)]:
                await moment(store)
            ((parcels, items),) = await query(store, sent)
            print(f"{ORDERS} orders, {parcels} parcels, {parcels - items} sent twice")
        finally:
            for process in (ann, bob):
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def main() -> None:
    logging.disable()  # that a lease was lost is a warning; here it is the point
    if len(sys.argv) > 1:
        await deliver(*sys.argv[1:])
        return
    with TemporaryDirectory() as folder:
        await show(str(Path(folder) / "events.db"))


if __name__ == "__main__":
    asyncio.run(main())
