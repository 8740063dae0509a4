"""A process that runs or rebuilds a projection until it is done, or killed.

Usage: projection_process.py MODE DATABASE [STEP]. The database is the path of an SQLite
file, or the DSN of a PostgreSQL one. It says on stdout, a line each, what it is about
to do, and does nothing more once it has said STEP.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from evsrc import Delivery, HandlerProjection, project, rebuild
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing import CODEC, intercepted
from tests.projections import Store, sums_table


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def opened(database: str) -> Store:
    if "://" in database:
        from evsrc.stores.postgresql import postgresql_store

        return await postgresql_store(database, CODEC)
    return await sqlite_store(database, CODEC, busy_timeout=timedelta(seconds=60))


def told(definition: HandlerProjection[Any], last: str) -> HandlerProjection[Any]:
    """Have it said before and after each of a definition's functions does its work."""

    async def tell(step: str) -> None:
        say(step)
        if step == last:
            await asyncio.Event().wait()

    def around(name: str, step: Callable[[Any], Awaitable[None]]) -> Any:
        async def told_step(tx: Any) -> None:
            await tell(name)
            await step(tx)
            await tell(f"{name} done")

        return told_step

    async def handle(tx: Any, events: Sequence[Any]) -> None:
        await tell("handle")
        await definition.handle(tx, events)
        await tell("handle done")

    return replace(
        definition,
        handle=handle,
        setup=around("setup", definition.setup),
        lock=around("lock", definition.lock),
        swap=around("swap", definition.swap),
    )


async def work(store: Store, last: str) -> None:
    """Keep the live version up to date, for ever."""
    async with project(
        store, told(sums_table(), last), Delivery(page=25)
    ) as projection:
        await projection.subscription.wait_for(2**62, timedelta(hours=1))


async def build(store: Store, last: str) -> None:
    """Build the new version, and swap."""
    definition = told(sums_table("sums@2", "sums_new"), last)
    await rebuild(store, definition, replaces="sums@1", page=50, near=25)
    say("swapped")


async def redrive(store: Store, last: str) -> None:
    """Handle the one parked event again."""
    updates = 0

    async def tell(_: str, call: Any) -> Any:
        nonlocal updates
        updates += 1
        if updates == 2:  # the first one took the letter
            say("committed")
            if last == "committed":
                await asyncio.Event().wait()
        return await call()

    watched = intercepted(store, tell, ports=["dead_letters.update"])
    definition = told(sums_table(), last)
    letters = project(watched, definition).subscription.dead_letters
    (letter,) = await letters.list()
    await letters.redrive(letter, lease=timedelta(milliseconds=500))


async def main(mode: str, database: str, last: str = "") -> None:
    logging.disable()
    async with await opened(database) as store:
        await {"work": work, "build": build, "redrive": redrive}[mode](store, last)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
