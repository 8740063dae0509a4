"""A process whose tasks append to one log, each event with what it knew of its boundary.

Usage: python -m tests.guarantees.boundary_process KIND WHERE PREFIX SEED COUNT. It says
on stdout, as JSON, how many events were acknowledged, by kind of append, and how many
appends were refused.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg

from evsrc import (
    ANY,
    AppendCondition,
    Appended,
    NewEvent,
    Query,
    StreamName,
    Write,
    any_of,
    postgresql_store,
    sqlite_store,
)
from evsrc.ports import EventStore
from evsrc.testing import CODEC, Fact, Tagged
from evsrc.testing.query_checks import last_of

KINDS = 40
TASKS = 8
UNLOCKED = "-unlocked"


async def open_store(kind: str, where: str, prefix: str) -> EventStore[Any]:
    """Open the store that all processes share; `...-unlocked` breaks it."""
    name = kind.removesuffix(UNLOCKED)
    store: EventStore[Any]
    if name == "sqlite":
        store = await sqlite_store(where, CODEC, synchronous="NORMAL")
    else:
        ordering: Any = name.removeprefix("postgresql-")
        store = await postgresql_store(where, CODEC, prefix=prefix, ordering=ordering)
    return unlocked(store) if kind.endswith(UNLOCKED) else store


def unlocked(store: EventStore[Any]) -> EventStore[Any]:
    """Judge conditions by a read before the append, as a store without a lock would."""

    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        judged = []
        for write in writes:
            expected = write.expected
            if isinstance(expected, AppendCondition):
                last, _ = await last_of(store, expected.query)
                if last > expected.after:
                    return None
                expected = expected.version
            judged.append(Write(write.stream, write.events, expected))
        return await store.append(*judged, also=also)

    return replace(store, append=append)


class Writer:
    """One task: it appends in every way there is."""

    def __init__(self, store: EventStore[Any], where: str, seed: str) -> None:
        self.store = store
        self.where = where
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.stream = StreamName("own", seed), 0

    async def run(self, appends: int) -> Counter[str]:
        """Append until *appends* were acknowledged."""
        ways = self.conditional, self.conditional, self.anyhow, self.at_a_version
        if self.where.startswith("postgresql:"):
            ways = (*ways, self.in_a_transaction)
        while self.counts["appends"] < appends:
            way = self.chance.choice(ways)
            done = await way()
            if isinstance(done, Appended):
                self.counts["appends"] += 1
                self.counts[way.__name__] += 1
            else:
                self.counts["refused"] += 1
        return self.counts

    def kind(self) -> str:
        return f"k{self.chance.randrange(KINDS)}"

    def events(self, *tags: str) -> list[NewEvent[Any]]:
        """Make a batch; the first event claims something, the others have its kind."""
        kinds = tuple(tag for tag in tags if tag.startswith("k"))
        more = [Tagged(n, kinds) for n in range(self.chance.choice((0, 0, 0, 2, 7)))]
        batch = [Tagged(0, tags), *more, *([Fact(1)] * self.chance.choice((0, 0, 1)))]
        self.counts["events"] += len(batch)
        return [NewEvent(event, uuid4()) for event in batch]

    async def put(self, write: Write[Any], *others: Write[Any]) -> Any:
        done = await self.store.append(write, *others)
        if not isinstance(done, Appended):
            self.counts["events"] -= sum(len(w.events) for w in (write, *others))
        return done

    async def conditional(self) -> Any:
        """Append under the condition that the boundary is as it was read."""
        kinds = {self.kind() for _ in range(self.chance.choice((1, 1, 2)))}
        query = any_of(*[Query.of(tags=[k], types=["tagged"]) for k in sorted(kinds)])
        last, head = await last_of(self.store, query)
        events = self.events(*kinds, f"last:{last}")
        stream = StreamName("boundary", str(self.chance.randrange(50)))
        write = Write(stream, events, AppendCondition(query, head))
        if self.chance.random() < 0.2:
            name, version = self.stream
            self.counts["events"] += 1
            other = Write(name, [NewEvent(Fact(2), uuid4())], version)
            done = await self.put(write, other)
            if isinstance(done, Appended):
                self.stream = name, version + 1
            return done
        return await self.put(write)

    async def anyhow(self) -> Any:
        """Append without any condition, to a stream that others write to as well."""
        stream = StreamName("any", str(self.chance.randrange(50)))
        return await self.put(Write(stream, self.events(self.kind()), ANY))

    async def at_a_version(self) -> Any:
        """Append to a stream of one's own, at its version."""
        name, version = self.stream
        events = self.events(self.kind())
        done = await self.put(Write(name, events, version))
        self.stream = name, version + len(events)
        return done

    async def in_a_transaction(self) -> Any:
        """Append in a transaction that stays open for a while."""
        if self.chance.random() < 0.9:
            return await self.anyhow()
        db = await asyncpg.connect(self.where)
        try:
            async with db.transaction():
                within = self.store.within(db)  # type: ignore[attr-defined]
                stream = StreamName("held", uuid4().hex)
                events = self.events(self.kind())
                done = await within.append(Write(stream, events, ANY))
                await asyncio.sleep(self.chance.random() * 0.03)  # held open
        finally:
            await db.close()
        return done


async def main(kind: str, where: str, prefix: str, seed: str, count: str) -> None:
    """Run the tasks, and say what they did."""
    async with await open_store(kind, where, prefix) as store:
        writers = [Writer(store, where, f"{seed}-{n}") for n in range(TASKS)]
        share = int(count) // TASKS
        counts = await asyncio.gather(*(writer.run(share) for writer in writers))
    print(json.dumps(sum(counts, Counter())))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
