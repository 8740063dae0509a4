"""S6: workers that are killed, paused, robbed, and whose clocks differ lose nothing."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evsrc.ports import EventStore
from tests.conftest import prefix_of
from tests.guarantees.worker_process import Options, Row
from tests.guarantees.writer_process import open_store

Store = EventStore[Any]
PARTITIONS, WORKERS, WRITERS = 8, 4, 2
LEASE = 1.0
TICK = timedelta(milliseconds=30)


def size(kills: int, *, soak: bool = False) -> Any:
    limit = pytest.mark.timeout(1800 if soak else 240)
    marks = [limit, pytest.mark.soak] if soak else [limit]
    return pytest.param(kills, marks=marks, id=f"{kills} kills")


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
    assert not found.total(), counts
    tokens = {(row.partition, row.token) for row in exact}
    return f"{counts}; {again} repeated where that is allowed, {len(tokens)} leases"


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
