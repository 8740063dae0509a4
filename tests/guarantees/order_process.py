"""Writers and readers of one PostgreSQL store, each a process, and how they are judged.

Usage: python -m tests.guarantees.order_process ROLE DSN PREFIX ORDERING SEED COUNT. A
process says on stdout, as JSON, what was recorded or seen, when it is done.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from evsrc import (
    ALL,
    ANY,
    Appended,
    Conflict,
    NewEvent,
    Query,
    QueryItem,
    StoreBusyError,
    StreamName,
    Write,
)
from evsrc.core.expectation import AnyQuery, matches
from evsrc.ports import EventStore
from evsrc.stores.postgresql import PostgreSQLStore, notices, postgresql_store
from evsrc.testing import CODEC, Fact, Note

SOME = Query(
    (
        QueryItem(categories=frozenset({"hot"})),
        QueryItem(frozenset({"held"}), frozenset({"fact"})),
        QueryItem(types=frozenset({"note"})),
    )
)
"""A filter that uses all of it: categories, types, and both in a pair."""

HOT = 3
GROUPED, HOLDING = 8, 2
LONGEST_HOLD = 0.4
PATIENCE = 60.0
QUERIES: dict[str, AnyQuery] = {"all": ALL, "some": SOME}


class Row(NamedTuple):
    """An event, as it was stored or seen."""

    position: int
    category: str
    stream: str
    version: int
    type: str
    id: str


# Readers.


class Tail:
    """A reader that follows the log and keeps what it sees."""

    def __init__(self, asked: str, limit: int) -> None:
        self.asked = asked
        self.limit = limit
        self.rows: list[Row] = []
        self.pages = 0

    async def follow(self, store: EventStore[Any], last: asyncio.Future[int]) -> None:
        """Read until the log has been read up to *last*."""
        after = 0
        while not last.done() or after < last.result():
            page = await store.read_all(
                QUERIES[self.asked], after=after, limit=self.limit
            )
            self.pages += bool(page.events)
            self.rows += map(row_of, page.events)
            after = page.reached
            if after >= page.head:
                await store.changed(after, timeout=timedelta(milliseconds=50))

    async def follow_in_time(self, store: Any, last: asyncio.Future[int]) -> None:
        """Do so, but give up some time after it was told where the end is."""
        following = asyncio.create_task(self.follow(store, last))
        await asyncio.wait([following, last], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([following], timeout=PATIENCE)
        if following.done():
            following.result()
        following.cancel()

    def judged(self, stored: Sequence[Row]) -> Counter[str]:
        """Count what is wrong with what it saw."""
        query = QUERIES[self.asked]
        wanted = [row for row in stored if matches(query, row.category, row.type)]
        found = Counter(
            {
                "missed": len(set(wanted) - set(self.rows)),
                "doubled": len(self.rows) - len(set(self.rows)),
                "strange": len(set(self.rows) - set(wanted)),
                **disorder(self.rows),
            }
        )
        if not found.total():
            assert self.rows == wanted
        return found


def row_of(recorded: Any) -> Row:
    name = recorded.stream
    place = recorded.position, name.category, name.id, recorded.version
    return Row(*place, recorded.type, recorded.id.hex)


def disorder(rows: Iterable[Row], *, whole: bool = False) -> dict[str, int]:
    """Count positions and versions that do not grow (*whole*: or leave one out)."""
    after, positions, versions = 0, 0, 0
    at: dict[tuple[str, str], int] = {}
    for row in rows:
        positions += row.position <= after
        after = row.position
        before = at.get(row[1:3], 0)
        versions += row.version != before + 1 if whole else row.version <= before
        at[row[1:3]] = row.version
    return {"position not above the last": positions, "version out of order": versions}


async def tail(store: PostgreSQLStore[Any], *_: object) -> object:
    """Follow the log in two ways; the last position comes on stdin."""
    last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    tails = [Tail("all", 1000), Tail("some", 130)]
    following = [
        asyncio.create_task(each.follow_in_time(store, last)) for each in tails
    ]
    last.set_result(int(await asyncio.to_thread(sys.stdin.readline)))
    await asyncio.gather(*following)
    return [(each.asked, each.pages, each.rows) for each in tails]


async def say(store: PostgreSQLStore[Any], url: str, poll: int, count: int) -> object:
    """Say the number of each event when it comes; look by itself every *poll* ms."""
    notices._POLL = poll / 1000
    after = seen = 0
    while seen < count:
        page = await store.read_all(after=after)
        for recorded in page.events:
            print(recorded.event.n, flush=True)
        after, seen = page.reached, seen + len(page.events)
        if seen < count:
            await store.changed(after, timeout=timedelta(seconds=PATIENCE))
    return seen


# Writers.


class Writing:
    """The tasks of one writing process; each has streams that only it writes to."""

    def __init__(self, store: PostgreSQLStore[Any], seed: int, count: int) -> None:
        self.store = store
        self.seed = seed
        self.count = count
        self.chance = random.Random(seed)
        self.told: Counter[str] = Counter()
        self.versions: Counter[StreamName] = Counter()

    def more(self) -> bool:
        return self.told["events"] < self.count

    def batch(self, category: str, task: int, *, hot: float) -> list[Write[Any]]:
        """Give writes of 1 to 20 events to one or two streams, perhaps to a hot one."""
        chance = self.chance
        writes = []
        for n in chance.sample(range(3), chance.randint(1, 2)):
            stream = StreamName(category, f"{self.seed}-{task}-{n}")
            events = self.events(chance.randint(1, 20))
            writes.append(Write(stream, events, self.versions[stream]))
        if chance.random() < hot:
            stream = StreamName("hot", str(chance.randrange(HOT)))
            writes.append(Write(stream, self.events(chance.randint(1, 3)), ANY))
        return writes

    def events(self, count: int) -> list[NewEvent[Any]]:
        chance = self.chance
        return [
            NewEvent(
                Note("note") if chance.random() < 0.1 else Fact(n),
                UUID(int=chance.getrandbits(128)),
            )
            for n in range(count)
        ]

    def committed(self, writes: Iterable[Write[Any]]) -> None:
        for write in writes:
            self.told["events"] += len(write.events)
            if write.expected is not ANY:
                self.versions[write.stream] += len(write.events)

    async def group(self, task: int) -> None:
        """Append with group commit; now and then again, or what must be refused."""
        while self.more():
            writes = self.batch("own", task, hot=0.15)
            outcome = await self.store.append(*writes)
            assert isinstance(outcome, Appended), outcome
            assert not outcome.repeated
            self.committed(writes)
            match self.chance.randrange(40):
                case 0:
                    outcome = await self.store.append(*writes)
                    assert isinstance(outcome, Appended), outcome
                    assert outcome.repeated
                    self.told["repeated"] += 1
                case 1:
                    old = Write(writes[0].stream, self.events(2), 0)
                    assert isinstance(await self.store.append(old), Conflict)
                    self.told["conflicts"] += 1

    async def hold(self, task: int, db: Any, prefix: str, rest: float) -> None:
        """Append in transactions that stay open for a while before they end."""
        chance = self.chance
        while self.more():
            early = chance.random() < 0.5
            await db.execute("BEGIN")
            if early:  # it has an xid long before it has a position
                await db.execute(f"INSERT INTO {prefix}_other VALUES ($1)", task)
                await asyncio.sleep(chance.uniform(0, 0.02))
            try:
                writes = await self.append_within(db, task)
            except StoreBusyError:  # another process was faster on a hot stream
                await db.execute("ROLLBACK")
                self.told["lost races"] += 1
                continue
            long = chance.random() < 0.02
            await asyncio.sleep(LONGEST_HOLD if long else chance.uniform(0.001, 0.05))
            commit = chance.random() < 0.8
            await db.execute("COMMIT" if commit else "ROLLBACK")
            self.told["held, committed" if commit else "held, rolled back"] += 1
            if commit:
                self.committed(writes)
            await asyncio.sleep(chance.uniform(0, rest))

    async def append_within(self, db: Any, task: int) -> list[Write[Any]]:
        inside = self.store.within(db)
        writes = self.batch("held", task, hot=0.1)
        outcome = await inside.append(*writes)
        assert isinstance(outcome, Appended), outcome
        if self.chance.random() < 0.3:
            stream = StreamName("held", f"{self.seed}-{task}-more")
            more = Write(stream, self.events(3), self.versions[stream])
            outcome = await inside.append(more)
            assert isinstance(outcome, Appended), outcome
            writes.append(more)
        return writes


async def write(store: PostgreSQLStore[Any], url: str, seed: int, count: int) -> object:
    """Append by group commit and in transactions that are held open."""
    prefix, ordering = sys.argv[3:5]
    rest = 1.0 if ordering == "serial" else 0.01  # serial: the others wait for it
    writing = Writing(store, seed, count)
    connections = [await asyncpg.connect(url) for _ in range(HOLDING)]
    async with asyncio.TaskGroup() as group:
        for task in range(GROUPED):
            group.create_task(writing.group(task))
        for task, db in enumerate(connections):
            group.create_task(writing.hold(task, db, prefix, rest))
    for db in connections:
        await db.close()
    return writing.told


async def crowd(store: PostgreSQLStore[Any], url: str, seed: int, each: int) -> object:
    """Append *each* times by each of *seed* tasks to one stream, as it comes."""
    stream = StreamName("crowd", "any")

    async def insist() -> None:
        for n in range(each):
            outcome = await store.append(Write(stream, [new(n)], ANY))
            assert isinstance(outcome, Appended), outcome
            assert not outcome.repeated

    await asyncio.gather(*(insist() for _ in range(seed)))
    return {"events": seed * each}


async def polite(store: PostgreSQLStore[Any], url: str, seed: int, each: int) -> object:
    """Append *each* times by each of *seed* tasks at the version that each has seen."""
    stream, conflicts = StreamName("crowd", "exact"), 0

    async def insist() -> None:
        nonlocal conflicts
        version = 0
        for n in range(each):
            while True:
                outcome = await store.append(Write(stream, [new(n)], version))
                if isinstance(outcome, Appended):
                    version = outcome.version
                    break
                assert outcome.actual > version
                version = outcome.actual
                conflicts += 1

    await asyncio.gather(*(insist() for _ in range(seed)))
    return {"events": seed * each, "conflicts": conflicts}


def new(n: int) -> NewEvent[Any]:
    return NewEvent(Fact(n), UUID(int=random.getrandbits(128)))


Role = Callable[[PostgreSQLStore[Any], str, int, int], Awaitable[object]]
ROLES: dict[str, Role] = {
    role.__name__: role for role in (tail, say, write, crowd, polite)
}


async def main(
    role: str, url: str, prefix: str, ordering: Any, seed: str, count: str
) -> None:
    logging.disable()
    async with await postgresql_store(
        url, CODEC, prefix=prefix, ordering=ordering, timeout=timedelta(seconds=50)
    ) as store:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        told = await ROLES[role](store, url, int(seed), int(count))
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
