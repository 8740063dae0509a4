"""S6: workers that are killed, paused, robbed, and whose clocks differ lose nothing."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from evsrc import (
    ANY,
    Delivery,
    Lease,
    NewEvent,
    Query,
    Recorded,
    StreamName,
    Write,
    work,
)
from evsrc.ports import EventStore, Transaction
from evsrc.runtime import workers
from evsrc.runtime.delivery import Transactional
from evsrc.testing import Fact
from tests.conftest import prefix_of
from tests.guarantees.worker_process import Options, Row
from tests.guarantees.writer_process import open_store

Store = EventStore[Any]
PARTITIONS, WORKERS, WRITERS = 8, 4, 2
LEASE = 1.0
TICK = timedelta(milliseconds=30)


def size(count: int, *, soak: bool = False) -> Any:
    limit = pytest.mark.timeout(1800 if soak else 240)
    marks = [limit, pytest.mark.soak] if soak else [limit]
    return pytest.param(count, marks=marks, id="many" if soak else "few")


async def steal(store: Store, lease: Lease) -> None:
    """Take a lease away from whoever has it, in the middle of whatever it does."""
    await store.leases.release(lease)
    await store.leases.acquire(lease.name, "thief", timedelta(milliseconds=1))


class Fleet:
    """Processes that write and work, and the store that they share."""

    def __init__(
        self, store: Store, database: str, prefix: str, ordering: str, folder: Path
    ) -> None:
        self.store = store
        self.arguments = database, prefix, ordering
        self.table = f"{prefix if '://' in database else 'evsrc'}_seen"
        self.shared = folder / "each.jsonl"
        self.shared.touch()
        self.workers: dict[str, Process] = {}
        self.writers: list[Process] = []
        self.started = 0
        self.stolen = 0
        self.chance = random.Random(6)

    async def spawn(self, role: str, given: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.guarantees.worker_process", role, *self.arguments, given),
            stdin=PIPE,
            stdout=PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async def write(self) -> None:
        """Start a writer."""
        self.writers.append(await self.spawn("write", str(len(self.writers))))

    async def join(self, owner: str = "", **options: Any) -> str:
        """Start a worker; give its owner."""
        self.started += 1
        owner = owner or f"worker-{self.started}"
        given = {"partitions": PARTITIONS, "lease": LEASE} | options
        asked = Options(owner=owner, shared=str(self.shared), **given)
        text = msgspec.json.encode(asked).decode()
        self.workers[owner] = await self.spawn("work", text)
        return owner

    async def kill(self, owner: str) -> None:
        """Kill a worker with -9."""
        process = self.workers.pop(owner)
        process.kill()
        await process.wait()

    async def end(self, process: Process) -> list[str]:
        """End a process in good order; give what it said."""
        said, _ = await process.communicate(b"\n")
        assert process.returncode == 0
        return said.decode().splitlines()

    async def stop_writing(self) -> int:
        """End the writers; give how many events they have written."""
        said = [await self.end(writer) for writer in self.writers]
        self.writers = []
        return sum(int(line.split()[1]) for (line,) in said)

    async def close(self) -> None:
        """Kill what is left."""
        for process in (*self.writers, *self.workers.values()):
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def rob(self) -> None:
        """Take a lease away from a worker that has it."""
        leases = await self.store.leases.list(self.chance.choice(("each#", "exact#")))
        held = [lease for lease in leases if "worker" not in lease.name]
        if held:
            await steal(self.store, self.chance.choice(held))
            self.stolen += 1

    async def owners(self) -> dict[str, str]:
        """Give who has each partition that somebody has."""
        leases = [*await self.store.leases.list("each#")]
        leases += await self.store.leases.list("exact#")
        return {lease.name: lease.owner for lease in leases}

    async def pause(self, owner: str) -> int:
        """Stop a worker until others have all that it had; give how much that was.

        Not for longer than they need: what it has locked keeps them waiting.
        """
        process = self.workers[owner]
        process.send_signal(signal.SIGSTOP)
        try:
            had = {n for n, whose in (await self.owners()).items() if whose == owner}
            had -= {name for name in had if "worker" in name}

            async def robbed() -> int:
                owners = await self.owners()
                return sum(owners.get(name, owner) != owner for name in had)

            async def all_taken() -> bool:
                return await robbed() == len(had)

            with suppress(TimeoutError):
                await self.until(all_taken, 2.5 * LEASE)
            return await robbed()
        finally:
            process.send_signal(signal.SIGCONT)

    # What was handled.

    def each(self) -> list[Row]:
        """Give what the handler that gets events at least once has got, in order."""
        lines = self.shared.read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Row) for line in lines]

    async def exact(self) -> list[Row]:
        """Give the rows of the read model, in the order in which they were written."""
        columns = "position, stream, version, partition, token, owner"
        rows = await self.sql(f"SELECT {columns} FROM {self.table} ORDER BY id")
        return [Row(*row) for row in rows]

    async def sql(self, statement: str) -> Any:
        async with self.store.transaction() as tx:
            if hasattr(tx.connection, "fetchall"):
                return await tx.connection.fetchall(statement)
            return await tx.connection.fetch(statement)

    async def count(self) -> int:
        ((count,),) = await self.sql(
            f"SELECT count(DISTINCT position) FROM {self.table}"
        )
        return count

    async def until(self, holds: Callable[[], Any], seconds: float = 90) -> None:
        """Return when it is so."""
        async with asyncio.timeout(seconds):
            while not await holds():
                await self.store.changed(await self.store.head(), timeout=TICK)

    async def progress(self, events: int) -> None:
        """Return when both subscriptions have handled so many more events."""
        exact, each = await self.count(), len(self.each())

        async def made() -> bool:
            more = await self.count() >= exact + events
            return more and len(self.each()) >= each + events

        await self.until(made)

    async def finish(self) -> str:
        """Let all that was written be handled, and judge it; give the counts."""
        written = await self.stop_writing()
        assert await self.store.head() >= written

        async def handled() -> bool:
            done = await self.count() >= written
            return done and len({row.position for row in self.each()}) >= written

        await self.until(handled)
        for process in self.workers.values():
            for line in await self.end(process):
                _, name, state, *_ = line.split()
                assert (name, state) in {("each", "stopped"), ("exact", "stopped")}, (
                    line
                )
        self.workers = {}
        assert await self.store.leases.list("") == (), "a lease was not released"
        counts = judge(written, self.each(), await self.exact())
        return f"{written} events, {counts}"


def judge(written: int, each: list[Row], exact: list[Row]) -> str:
    """See that nothing is missing, doubled where it must not be, or out of order."""
    positions = {row.position for row in exact}
    found = Counter(
        {
            "gaps": written - len({row.position for row in each}),
            "gaps in the read model": written - len(positions),
            "doubles in the read model": len(exact) - len(positions),
            "out of order": sum(map(disorder, (first(each), exact))),
            "stale writes": stale(exact),
            "tokens with two owners": sum(map(shared_tokens, (each, exact))),
        }
    )
    found["gaps in the read model"] += bool(positions ^ {row.position for row in each})
    again = len(each) - len({row.position for row in each})
    counts = ", ".join(f"{count} {what}" for what, count in found.items())
    times = Counter(row.position for row in exact)
    doubled = [row for row in exact if times[row.position] > 1]
    assert not found.total(), (
        f"{counts}: {[tuple(msgspec.to_builtins(r)) for r in doubled[:20]]}"
    )
    return f"{counts}; {again} repeated where that is allowed"


def first(rows: Iterable[Row]) -> list[Row]:
    """Leave out repetitions."""
    seen: dict[int, Row] = {}
    for row in rows:
        seen.setdefault(row.position, row)
    return list(seen.values())


def disorder(rows: Iterable[Row]) -> int:
    """Count events that do not follow the one before them in their stream."""
    at: Counter[str] = Counter()
    wrong = 0
    for row in rows:
        wrong += row.version != at[row.stream] + 1
        at[row.stream] = row.version
    return wrong


def stale(rows: Iterable[Row]) -> int:
    """Count rows written under a token after one was written under a later token."""
    latest: Counter[int] = Counter()
    wrong = 0
    for row in rows:
        wrong += row.token < latest[row.partition]
        latest[row.partition] = max(latest[row.partition], row.token)
    return wrong


def shared_tokens(rows: Iterable[Row]) -> int:
    """Count tokens under which two workers wrote."""
    owners: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
    for row in rows:
        owners[row.partition, row.token].add(row.owner)
    return sum(len(those) - 1 for those in owners.values())


@pytest.fixture(params=["sqlite", "postgresql", "postgresql-concurrent"])
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    kind = request.param
    ordering = "concurrent" if "concurrent" in kind else "serial"
    prefix, database = prefix_of(tmp_path), str(tmp_path / "events.db")
    serial = "INTEGER PRIMARY KEY"
    if kind != "sqlite":
        database = request.getfixturevalue("shared_database")
        serial = "bigserial PRIMARY KEY"
    async with await open_store("batches", database, prefix, ordering) as store:
        fleet = Fleet(store, database, prefix, ordering, tmp_path)
        await fleet.sql(
            f"CREATE TABLE {fleet.table} (id {serial}, position bigint, stream text, "
            "version bigint, partition bigint, token bigint, owner text)"
        )
        try:
            yield fleet
        finally:
            await fleet.close()


@pytest.mark.parametrize("kills", [size(6), size(30, soak=True)])
async def test_s6_workers_that_are_killed_in_turn(fleet: Fleet, kills: int) -> None:
    """Four workers share eight partitions; one after the other is killed with -9."""
    for _ in range(WORKERS):
        await fleet.join()
    for _ in range(WRITERS):
        await fleet.write()
    for _ in range(kills):
        await fleet.progress(fleet.chance.randint(20, 200))
        await fleet.kill(next(iter(fleet.workers)))
        await fleet.join()
    print(f"S6: {kills} kills, {await fleet.finish()}")


@pytest.mark.timeout(240)
async def test_s6_workers_that_are_paused(fleet: Fleet) -> None:
    """Each is stopped past the end of its leases, robbed, and goes on in its handler."""
    for _ in range(WORKERS):
        await fleet.join(slow=0.02)
    await fleet.write()
    await fleet.progress(50)
    pauses = robbed = 0
    for owner in tuple(fleet.workers):
        lost = 0
        while not lost:
            lost = await fleet.pause(owner)
            pauses += 1
            await fleet.progress(50)
        robbed += lost
    print(f"S6: {pauses} pauses, {robbed} leases lost, {await fleet.finish()}")


@pytest.mark.timeout(240)
async def test_s6_workers_that_are_robbed_and_whose_clocks_differ(fleet: Fleet) -> None:
    """Clocks are an hour early and late; leases are stolen in the middle of handlers."""
    for skew in (0, 3600, -3600):
        await fleet.join(skew=skew, slow=0.005)
    await fleet.write()
    for _ in range(30):
        await fleet.rob()
        await fleet.progress(5)
    assert fleet.stolen >= 20
    print(f"S6: clocks 2 hours apart, {fleet.stolen} thefts, {await fleet.finish()}")


# In one process, over every store.

SEEN, FACTS = "seen", Query.of(categories=["w"])


class Crowd:
    """Workers that come and go, one who writes, and a read model that is a stream."""

    def __init__(self, store: Store, partitions: int, lease: float) -> None:
        self.store = store
        self.partitions = partitions
        self.lease = timedelta(seconds=lease)
        self.chance = random.Random(17)
        self.workers: list[Any] = []
        self.started = 0
        self.each: list[Recorded[Any]] = []
        self.written = 0
        self.done = asyncio.Event()

    async def handle(self, recorded: Recorded[Any]) -> None:
        await asyncio.sleep(0)
        self.each.append(recorded)

    async def apply(self, tx: Transaction[Any], events: Any) -> None:
        """Record what was seen, in a stream for each stream."""
        writes: dict[StreamName, list[NewEvent[Any]]] = {}
        for recorded in events:
            new = NewEvent(Fact(recorded.position, str(recorded.version)), uuid4())
            writes.setdefault(StreamName(SEEN, recorded.stream.id), []).append(new)
        await tx.append(*(Write(stream, new, ANY) for stream, new in writes.items()))

    async def join(self) -> None:
        self.started += 1
        for name, handle in (
            ("each", self.handle),
            ("exact", Transactional(self.apply)),
        ):
            worker = work(
                self.store,
                name,
                handle,
                Delivery(query=FACTS),
                owner=f"worker-{self.started}",
                partitions=self.partitions,
                lease=self.lease,
            )
            await worker.start()
            self.workers.append(worker)

    async def leave(self) -> None:
        """Let a worker of each subscription leave in good order."""
        gone, self.workers = self.workers[:2], self.workers[2:]
        await asyncio.gather(*(worker.stop() for worker in gone))

    async def write(self) -> None:
        """Append until it is done, some hundred events a second."""
        versions: Counter[str] = Counter()
        while not self.done.is_set():
            id = str(self.chance.randrange(100))
            events = [NewEvent(Fact(n), uuid4()) for n in range(3)]
            await self.store.append(Write(StreamName("w", id), events, versions[id]))
            versions[id] += 3
            self.written += 3
            await self.store.changed(await self.store.head(), timeout=TICK / 3)

    async def seen(self) -> list[tuple[int, str, int]]:
        """Give what is in the read model: position, stream and version."""
        rows, after = [], 0
        while True:
            page = await self.store.read_all(
                Query.of(categories=[SEEN]), after=after, limit=1000
            )
            rows += [(r.event.n, r.stream.id, int(r.event.text)) for r in page.events]
            after = page.reached
            if after >= page.head:
                return rows

    async def finish(self, writing: asyncio.Task[None]) -> str:
        """Let all be handled; judge it; give the counts."""
        self.done.set()
        await writing
        async with asyncio.timeout(90):
            while (
                len(await self.seen()) < self.written
                or len({r.position for r in self.each}) < self.written
            ):
                await self.store.changed(await self.store.head(), timeout=TICK)
        while self.workers:
            await self.leave()
        exact = [Row(*row, 0, 0, "") for row in await self.seen()]
        each = [Row(r.position, r.stream.id, r.version, 0, 0, "") for r in self.each]
        return f"{self.written} events, {judge(self.written, each, exact)}"


@pytest.fixture
def short_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often at leases that are long: a machine that is slow loses none."""
    monkeypatch.setattr(workers, "_BEATS", 30)


@pytest.mark.usefixtures("short_beats")
@pytest.mark.parametrize("rounds", [size(15), size(300, soak=True)])
async def test_r17_workers_that_come_and_go(store: Store, rounds: int) -> None:
    """Workers join and leave all the time: 64 partitions, each stream in order."""
    crowd, loop = Crowd(store, 64, 30.0), asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(crowd.write())
        for _ in range(rounds):
            few = len(crowd.workers) < 4
            if few or (len(crowd.workers) < 6 and crowd.chance.random() < 0.5):
                await crowd.join()
            else:
                await crowd.leave()
            with suppress(TimeoutError):
                await asyncio.wait_for(crowd.done.wait(), 0.2)
        last = loop.time()
        patience = timedelta(seconds=90)
        await asyncio.gather(*(worker.balanced(patience) for worker in crowd.workers))
        took = loop.time() - last
        counts = await crowd.finish(writing)
    print(f"R17: {rounds} moves, balanced {took:.1f} s after the last, {counts}")


@pytest.mark.usefixtures("short_beats")
@pytest.mark.parametrize("thefts", [size(200), size(1000, soak=True)])
async def test_r16_leases_that_are_stolen(store: Store, thefts: int) -> None:
    """Leases are stolen in the middle of everything: no late commit is accepted."""
    crowd, stolen = Crowd(store, 8, 6.0), 0
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(crowd.write())
        await crowd.join()
        await crowd.join()
        while stolen < thefts:
            for lease in await store.leases.list("e"):
                if "worker" not in lease.name and crowd.chance.random() < 0.5:
                    await steal(store, lease)
                    stolen += 1
            await store.changed(await store.head(), timeout=TICK)
        counts = await crowd.finish(writing)
    print(f"R16: {stolen} thefts, {counts}")
