"""A process that delivers events until it is told to end.

Usage: python -m tests.guarantees.signal_process KIND DATABASE HANG TIMEOUT. KIND is
"core" or "classes"; DATABASE an SQLite file. It says which event it has handled, a line
each, hangs in the one with the number HANG (-1: in none), and at last says how it ended.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Any

from evsrc import (
    DomainEvent,
    InMemoryEventBus,
    SQLiteCheckpointRepository,
    SQLiteEventStore,
    run_until_signal,
    sqlite_store,
    subscribe,
)
from evsrc.subscriptions import SubscriptionManager
from evsrc.testing import CODEC
from tests.facade_domain import REGISTRY


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def core(path: str, hang: int, timeout: float) -> None:
    async def handle(recorded: Any) -> None:
        if recorded.event.n == hang:
            say("hangs")
            await asyncio.Event().wait()
        await asyncio.sleep(0.002)
        say("handled", recorded.position)

    async with await sqlite_store(path, CODEC) as store:
        subscription = subscribe(store, "s", handle)
        told = await run_until_signal(subscription, timeout=timedelta(seconds=timeout))
        say("ended", None if told is None else told.name, subscription.position)


async def classes(path: str, hang: int, timeout: float) -> None:
    import aiosqlite

    class Prints:
        count = 0

        async def handle(self, event: DomainEvent) -> None:
            if self.count == hang:
                say("hangs")
                await asyncio.Event().wait()
            self.count += 1
            await asyncio.sleep(0.002)
            say("handled", event.aggregate_version)

    async with (
        aiosqlite.connect(path + ".checkpoints") as connection,
        SQLiteEventStore(path, REGISTRY) as store,
    ):
        manager = SubscriptionManager(
            store,
            InMemoryEventBus(),
            SQLiteCheckpointRepository(connection),
            shutdown_timeout=timeout,
        )
        subscription = await manager.subscribe(Prints(), name="s")
        result = await manager.run_until_shutdown()
        say(
            "ended",
            result.signal,
            subscription.last_processed_position,
            result.phase.value,
            result.subscriptions_stopped,
            result.checkpoints_saved,
        )


if __name__ == "__main__":
    kind, path, hang, timeout = sys.argv[1:]
    run = core if kind == "core" else classes
    asyncio.run(run(path, int(hang), float(timeout)))
