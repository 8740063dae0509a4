"""A process that appends, or one that works on two shared subscriptions.

Usage: python -m tests.guarantees.worker_process write DATABASE PREFIX ORDERING SEED
                                                 work DATABASE PREFIX ORDERING OPTIONS

It says "ready", and ends in good order when it reads a line. A worker has a handler
that is delivered to at least once, which writes a line to a file that all workers
share, and one whose rows are committed with the checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from evsrc import (
    Appended,
    NewEvent,
    Recorded,
    StreamName,
    Transaction,
    Transactional,
    Worker,
    Write,
    partition_of,
    work,
)
from evsrc.ports import EventStore
from evsrc.testing import Fact
from tests.guarantees.writer_process import open_store, say

Store = EventStore[Any]
STREAMS = 25


class Options(msgspec.Struct):
    """How a worker works."""

    owner: str
    partitions: int
    lease: float
    shared: str  # the file of the lines
    skew: float = 0  # by how many seconds this process's clock is wrong
    slow: float = 0  # seconds that the handler takes for an event


class Row(msgspec.Struct, array_like=True):
    """An event that was handled, by whom, under which token."""

    position: int
    stream: str
    version: int
    partition: int
    token: int
    owner: str


class Working:
    """The two workers of a process."""

    def __init__(self, store: Store, prefix: str, options: Options) -> None:
        self.options = options
        self.shared = os.open(options.shared, os.O_WRONLY | os.O_APPEND)
        self.insert = (
            f"INSERT INTO {prefix}_seen (position, stream, version, partition, token, "
            "owner) VALUES "
        )
        self.each = self.worker(store, "each", self.handle)
        self.exact = self.worker(store, "exact", Transactional(self.apply))

    def worker(self, store: Store, name: str, handle: Any) -> Worker[Any]:
        return work(
            store,
            name,
            handle,
            owner=self.options.owner,
            partitions=self.options.partitions,
            lease=timedelta(seconds=self.options.lease),
        )

    def row(self, worker: Worker[Any], recorded: Recorded[Any]) -> Row:
        number = partition_of(recorded.stream, self.options.partitions)
        token = worker._leased[number].lease.token
        stream = recorded.stream.id
        place = recorded.position, stream, recorded.version
        return Row(*place, number, token, self.options.owner)

    async def handle(self, recorded: Recorded[Any]) -> None:
        row = self.row(self.each, recorded)
        await asyncio.sleep(self.options.slow)
        os.write(self.shared, msgspec.json.encode(row) + b"\n")

    async def apply(
        self, tx: Transaction[Any], events: Sequence[Recorded[Any]]
    ) -> None:
        rows = [msgspec.to_builtins(self.row(self.exact, r)) for r in events]
        sqlite = hasattr(tx.connection, "fetchone")
        if not sqlite:  # whose transaction would keep all the others waiting
            await asyncio.sleep(self.options.slow)
        places = "?, ?, ?, ?, ?, ?" if sqlite else "$1, $2, $3, $4, $5, $6"
        await tx.connection.executemany(f"{self.insert} ({places})", rows)


async def write(store: Store, prefix: str, seed: str) -> None:
    """Append a few events at a time to streams of its own, some hundred a second."""
    chance, versions = random.Random(seed), [0] * STREAMS
    stop = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    while not stop.done():
        n = chance.randrange(STREAMS)
        events = [
            NewEvent(Fact(n), UUID(int=random.getrandbits(128)))
            for _ in range(chance.randint(1, 5))
        ]
        outcome = await store.append(
            Write(StreamName("w", f"{seed}-{n}"), events, versions[n])
        )
        assert isinstance(outcome, Appended), outcome
        versions[n] += len(events)
        await asyncio.sleep(0.01)  # so that the workers can follow
    say("written", sum(versions))


async def join(store: Store, prefix: str, given: str) -> None:
    """Work until it is told to stop."""
    options = msgspec.json.decode(given, type=Options)
    if options.skew:
        true = time.time_ns
        time.time_ns = lambda: true() + round(options.skew * 1e9)
    working = Working(store, prefix, options)
    async with AsyncExitStack() as stack:
        for worker in (working.each, working.exact):
            await stack.enter_async_context(worker)
        await asyncio.to_thread(sys.stdin.readline)
    for worker in (working.each, working.exact):
        status = worker.status()
        say("ended", worker.name, status.state, status.rebalances, repr(status.error))


async def main(
    role: str, database: str, prefix: str, ordering: str, given: str
) -> None:
    logging.disable()
    if "://" not in database:
        prefix, ordering = "evsrc", "serial"
    async with await open_store("batches", database, prefix, ordering) as store:
        say("ready")
        await {"write": write, "work": join}[role](store, prefix, given)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
