"""A process that writes to a store until it is done, or killed.

Usage: writer_process.py MODE DATABASE SEED [COUNT [PREFIX ORDERING]]. The database is
the path of an SQLite file, or the DSN of a PostgreSQL one. The process says on stdout
what it was told is recorded, a line each, and nothing before it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID

from evsrc import ANY, Appended, NewEvent, StreamName, Write
from evsrc.ports import EventStore
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing import CODEC, Fact

Store = EventStore[Any]


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def acknowledge(store: Store, seed: int, _: int) -> None:
    """Append for ever in eight tasks; say each acknowledged id and its place."""
    chance = random.Random(seed)

    async def write(name: str) -> None:
        while True:
            events = [
                NewEvent(Fact(n), UUID(int=chance.getrandbits(128)))
                for n in range(chance.randint(1, 5))
            ]
            stream = StreamName("kill", name)
            say("asking", stream.id, *(new.id for new in events))
            outcome = await store.append(Write(stream, events, ANY))
            assert isinstance(outcome, Appended)
            say("recorded", stream.id, outcome.version, *(new.id for new in events))

    async with asyncio.TaskGroup() as group:
        for n in range(8):
            group.create_task(write(str(n)))


async def race(store: Store, seed: int, count: int) -> None:
    """Try to win each version of one stream; say which were won."""
    stream = StreamName("race", "one")
    say("ready")
    sys.stdin.readline()
    for version in range(count):
        new = NewEvent(Fact(seed), UUID(int=random.Random().getrandbits(128)))
        outcome = await store.append(Write(stream, [new], version))
        if isinstance(outcome, Appended):
            say("won", version)
        else:
            assert outcome.actual > version


async def batches(store: Store, seed: int, count: int) -> None:
    """Append batches of 1 to 20 over four streams of its own; say when it is done."""
    chance = random.Random(seed)
    written = [0, 0, 0, 0]
    while sum(written) < count:
        writes = []
        for n in chance.sample(range(4), chance.randint(1, 2)):
            size = chance.randint(1, 20)
            events = [
                NewEvent(Fact(written[n] + i), UUID(int=chance.getrandbits(128)))
                for i in range(size)
            ]
            writes.append(Write(StreamName("batch", f"{seed}-{n}"), events, written[n]))
            written[n] += size
        outcome = await store.append(*writes)
        assert isinstance(outcome, Appended), outcome
    say("done", sum(written))


MODES: dict[str, Callable[[Store, int, int], Coroutine[Any, Any, None]]] = {
    "acknowledge": acknowledge,
    "race": race,
    "batches": batches,
}


async def open_store(
    mode: str, database: str, prefix: str = "evsrc", ordering: str = "serial"
) -> Store:
    if "://" in database:
        from evsrc.stores.postgresql import postgresql_store

        given: Any = ordering
        return await postgresql_store(database, CODEC, prefix=prefix, ordering=given)
    synchronous: Any = "NORMAL" if mode == "batches" else "FULL"
    wait = timedelta(seconds=60)
    return await sqlite_store(
        database, CODEC, synchronous=synchronous, busy_timeout=wait
    )


async def main(
    mode: str, database: str, seed: str, count: str = "0", *more: str
) -> None:
    logging.disable()
    async with await open_store(mode, database, *more) as store:
        await MODES[mode](store, int(seed), int(count))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
