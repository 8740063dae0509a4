"""R1, R2, A3 and S3 on PostgreSQL: many processes write, and no reader misses anything.

The same harness has to find what known-bad stores lose: one that finds nothing there
proves nothing here. `pytest -m soak -n 0 tests/guarantees/test_postgresql_order.py -s`
is the long form.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import asyncpg
import pytest

from evsrc import ANY, NewEvent, Recorded, StreamName, Write
from evsrc.ports import EventStore, Page
from evsrc.stores.postgresql import postgresql_store
from evsrc.testing import CODEC, Fact

from .order_process import Row, Tail, disorder

ROOT = Path(__file__).parents[2]
ORDERINGS = pytest.mark.parametrize("ordering", ["serial", "concurrent"])
WRITERS = 6
EVENTS, SOAKED = 30_000, 210_000


@pytest.fixture
def prefix() -> str:
    return f"o{uuid4().hex[:12]}"


class Processes:
    """The processes of one test, all on one store; whatever happens, they end."""

    def __init__(self, *store: str) -> None:
        self.store = store
        self.all: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.all:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in self.all))

    async def start(self, role: str, seed: int, count: int) -> Any:
        """Start a process and return when it has opened the store."""
        command = "-m", "tests.guarantees.order_process", role, *self.store
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(*command, str(seed), str(count)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.all.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async def start_all(self, role: str, number: int, count: int) -> list[Any]:
        starting = (self.start(role, seed, count) for seed in range(number))
        return await asyncio.gather(*starting)


def tell(process: Any, line: object = "go") -> None:
    process.stdin.write(f"{line}\n".encode())


async def told(process: Any) -> Any:
    """Wait for the end of a process and give what it says."""
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


async def run(processes: list[Any]) -> list[Any]:
    """Let processes begin at the same moment; give what they say in the end."""
    for process in processes:
        tell(process)
    return await asyncio.gather(*map(told, processes))


async def fetch(url: str, *statements: str) -> list[Any]:
    async with connected(url) as db:
        for statement in statements[:-1]:
            await db.execute(statement)
        return await db.fetch(statements[-1])


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def disturbed(url: str, elsewhere: str, prefix: str) -> AsyncGenerator[None]:
    """Keep open what others leave behind: transactions that have written, elsewhere."""
    other = f"INSERT INTO {prefix}_other VALUES (1)"
    async with AsyncExitStack() as stack:
        idle, orphan, beside = [
            await stack.enter_async_context(connected(where))
            for where in (elsewhere, url, url)
        ]
        await idle.execute("CREATE TEMP TABLE written (n int); BEGIN")
        await idle.execute("INSERT INTO written VALUES (1)")
        await orphan.execute(f"BEGIN; {other}; PREPARE TRANSACTION '{prefix}'")
        await beside.execute(f"BEGIN; {other}")
        yield
        assert all(db.is_in_transaction() for db in (idle, beside))
        await orphan.execute(f"ROLLBACK PREPARED '{prefix}'")


async def rows_of(url: str, prefix: str) -> list[Row]:
    """Give the truth: every stored event, without evsrc."""
    statement = f"""SELECT position, category, stream_id, version, type, event_id
                      FROM {prefix}_event ORDER BY position"""
    return [Row(*row[:5], row[5].hex) for row in await fetch(url, statement)]


Spoil = Callable[[str, EventStore[Any], Any], Awaitable[EventStore[Any]]]


class Harness:
    """Writes by processes with held-open transactions, and reads beside them."""

    def __init__(self, url: str, elsewhere: str, prefix: str, ordering: Any) -> None:
        self.url, self.elsewhere = url, elsewhere
        self.prefix, self.ordering = prefix, ordering

    async def judge(
        self,
        count: int,
        *,
        writers: int = WRITERS,
        quiet: bool = False,
        spoil: Spoil | None = None,
    ) -> dict[str, Counter[str]]:
        """Let *count* events be written; count what each reader got wrong.

        Args:
            count: how many events, about.
            writers: how many processes.
            quiet: nobody else uses the server.
            spoil: turns the readers' store, or what it is made of, into a bad one.
        """
        begun = time.monotonic()
        store = self.url, self.prefix, self.ordering
        await fetch(self.url, f"CREATE TABLE {self.prefix}_other (n int)")
        others = disturbed(self.url, self.elsewhere, self.prefix)
        async with (
            await postgresql_store(
                self.url, CODEC, prefix=self.prefix, ordering=self.ordering
            ) as opened,
            nullcontext() if quiet else others,
            connected(self.url) as db,
            Processes(*store) as processes,
        ):
            reading = await spoil(self.prefix, opened, db) if spoil else opened
            last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            tails = [Tail("all", 700), Tail("some", 400)]
            if spoil:
                tails.pop()  # the connection is for one
            following = [
                asyncio.create_task(each.follow_in_time(reading, last))
                for each in tails
            ]
            apart = await processes.start("tail", 0, 0)
            tell(apart)
            said = await run(
                await processes.start_all("write", writers, count // writers)
            )
            written = time.monotonic() - begun
            stored = await rows_of(self.url, self.prefix)
            last.set_result(stored[-1].position)
            tell(apart, stored[-1].position)
            await asyncio.gather(*following)
            for asked, pages, rows in await told(apart):
                tail = Tail(asked, 0)
                tail.pages, tail.rows = pages, [Row(*row) for row in rows]
                tails.append(tail)
        tally = sum(map(Counter, said), Counter[str]())
        wrong = {
            f"{n} {tail.asked}": tail.judged(stored) for n, tail in enumerate(tails)
        }
        wrong["stored"] = Counter(disorder(stored, whole=True))
        wrong["stored"]["not acknowledged"] = abs(len(stored) - tally["events"])
        if self.ordering == "serial":
            wrong["stored"]["holes"] = stored[-1].position - len(stored)
        print(
            f"R1, R2 {self.ordering}: {len(stored)} stored by {writers} processes in "
            f"{written:.0f} s, {stored[-1].position - len(stored)} holes; "
            f"{', '.join(f'{n} {what}' for what, n in tally.items() if what != 'events')}"
        )
        for tail, found in zip(tails, wrong.values(), strict=False):
            counts = ", ".join(f"{n} {what}" for what, n in found.items())
            print(f"  {tail.asked}: {len(tail.rows)} in {tail.pages} pages, {counts}")
        return wrong


@pytest.fixture
def harness(
    evsrc_postgres_url: str, shared_database: str, prefix: str
) -> Callable[[Any], Harness]:
    """Give what makes a harness, each over a new store."""
    number = count()
    return lambda ordering: Harness(
        shared_database, evsrc_postgres_url, f"{prefix}_{next(number)}", ordering
    )


@pytest.mark.timeout(240)
@ORDERINGS
async def test_r1_r2_tailing_readers_miss_nothing(
    harness: Callable[[Any], Harness], ordering: Any
) -> None:
    """Six processes write, some transactions stay open: four readers see all of it."""
    wrong = await harness(ordering).judge(EVENTS)
    assert not sum(wrong.values(), Counter[str]()).total(), wrong


@pytest.mark.soak
@pytest.mark.timeout(3600)
@ORDERINGS
async def test_r1_r2_tailing_readers_miss_nothing_for_long(
    harness: Callable[[Any], Harness], ordering: Any
) -> None:
    """The same, with more than 200,000 events."""
    wrong = await harness(ordering).judge(SOAKED)
    assert not sum(wrong.values(), Counter[str]()).total(), wrong


# Known-bad stores.


def reading(store: EventStore[Any], db: Any, statement: str) -> EventStore[Any]:
    """Give a store that reads the log by a statement, as far as that shows it."""

    async def read_all(query: Any = None, *, after: int = 0, limit: int = 1000) -> Any:
        rows = await db.fetch(statement, after, limit)
        events = tuple(
            Recorded(
                None, type, StreamName(category, id), version, at, event_id, None, 0
            )
            for at, category, id, version, type, event_id in rows
        )
        reached = events[-1].position if events else after
        return Page(events, reached, reached + (len(events) == limit))

    return replace(store, read_all=read_all)


COLUMNS = "position, category, stream_id, version, type, event_id"


async def naive(prefix: str, store: EventStore[Any], db: Any) -> EventStore[Any]:
    """It reads whatever is there after the last position."""
    return reading(
        store,
        db,
        f"SELECT {COLUMNS} FROM {prefix}_event WHERE position > $1 "
        "ORDER BY position LIMIT $2",
    )


async def horizon(prefix: str, store: EventStore[Any], db: Any) -> EventStore[Any]:
    """It leaves out what may be younger than an open transaction, but goes by position."""
    return reading(
        store,
        db,
        f"SELECT {COLUMNS} FROM {prefix}_event WHERE position > $1 AND "
        "xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint "
        "ORDER BY position LIMIT $2",
    )


async def cached(prefix: str, store: EventStore[Any], db: Any) -> EventStore[Any]:
    """Sessions keep positions back, and use them below those of others."""
    await db.execute(f"ALTER SEQUENCE {prefix}_position CACHE 20")
    return store


async def floorless(prefix: str, store: EventStore[Any], db: Any) -> EventStore[Any]:
    """Appends do not say below what readers have to wait."""
    made = await db.fetchval(f"SELECT pg_get_functiondef('{prefix}_append'::regproc)")
    assert "pg_advisory_xact_lock_shared" in made
    await db.execute(made.replace("pg_advisory_xact_lock_shared", "int4larger"))
    return store


async def slowed(prefix: str, store: EventStore[Any], db: Any) -> EventStore[Any]:
    """Not bad, only slow: much happens between the steps of appends and readers."""
    for function, step in (
        ("append", "  SELECT array_agg(coalesce(v, 0)"),
        ("append", "    at := date_part("),
        ("watermark", "  SELECT max(d) INTO"),
        ("watermark", "  SELECT position INTO"),
    ):
        name = f"{prefix}_{function}"
        made = await db.fetchval(f"SELECT pg_get_functiondef('{name}'::regproc)")
        assert made.count(step) == 1
        pause = "PERFORM pg_sleep(random() * 0.02);"
        await db.execute(made.replace(step, f"{pause}\n{step}"))
    return store


async def hasty(prefix: str, store: EventStore[Any], db: Any) -> EventStore[Any]:
    """The watermark looks at the last number drawn after it has looked at the floors."""
    await slowed(prefix, store, db)
    made = await db.fetchval(
        f"SELECT pg_get_functiondef('{prefix}_watermark'::regproc)"
    )
    step = "_drawn - coalesce("
    assert made.count(step) == 1
    late = f"(SELECT {prefix}_drawn()) - coalesce("
    await db.execute(made.replace(step, late))
    return store


@pytest.mark.parametrize("spoil", [naive, cached, floorless, hasty])
async def test_r1_the_harness_finds_what_bad_stores_miss(
    harness: Callable[[Any], Harness], spoil: Spoil
) -> None:
    """Stores that are known to lose events are found out, by one run or one of a few."""
    missed: list[int] = []
    while not sum(missed) and len(missed) < 5:
        wrong = await harness("concurrent").judge(4000, writers=3, spoil=spoil)
        missed.append(wrong["0 all"]["missed"])
    assert sum(missed) > 0
    print(f"R1: {spoil.__name__} missed {missed}")


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_r1_the_harness_finds_a_horizon_with_a_cursor_on_position(
    harness: Callable[[Any], Harness],
) -> None:
    """What eventsource-py does is found out too, where nothing makes it stand still."""
    wrong = await harness("concurrent").judge(EVENTS, spoil=horizon, quiet=True)
    assert wrong["0 all"]["missed"] > 0
    print(f"R1: horizon missed {wrong['0 all']['missed']}")


async def test_r1_r2_slow_steps_miss_nothing(
    harness: Callable[[Any], Harness],
) -> None:
    """With time between its steps, in which others go on, the floor still holds."""
    wrong = await harness("concurrent").judge(4000, writers=3, spoil=slowed)
    assert not sum(wrong.values(), Counter[str]()).total(), wrong


# Crowds.


async def crowded(
    url: str, prefix: str, ordering: str, role: str, size: tuple[int, int, int]
) -> None:
    """Let processes x tasks append so many times each to one stream."""
    processes, tasks, each = size
    opened = await postgresql_store(url, CODEC, prefix=prefix, ordering=ordering)
    async with opened as store, Processes(url, prefix, ordering) as crowd:
        starting = (crowd.start(role, tasks, each) for _ in range(processes))
        ready = await asyncio.gather(*starting)
        begun = time.monotonic()
        said = await run(ready)
        seconds = time.monotonic() - begun
        rows = await rows_of(url, prefix)
        await store.head()
    assert [row.version for row in rows] == list(range(1, processes * tasks * each + 1))
    conflicts = sum(one.get("conflicts", 0) for one in said)
    print(
        f"R8 {role} {ordering}: {processes} processes x {tasks} writers x {each} appends "
        f"to one stream in {seconds:.1f} s: {len(rows)} recorded, {conflicts} conflicts"
    )


@pytest.mark.parametrize("role", ["crowd", "polite"])
@ORDERINGS
async def test_r8_a_crowd_on_one_stream(
    shared_database: str, prefix: str, ordering: str, role: str
) -> None:
    """Appends of many processes to one stream all succeed, of any version and exact."""
    await crowded(shared_database, prefix, ordering, role, (4, 5, 20))


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("role", ["crowd", "polite"])
@ORDERINGS
async def test_r8_a_hundred_writers_on_one_stream(
    shared_database: str, prefix: str, ordering: str, role: str
) -> None:
    """The same, by a hundred writers of a hundred appends."""
    await crowded(shared_database, prefix, ordering, role, (10, 10, 100))


# Wake-ups.


def write(n: int) -> Write[Any]:
    return Write(StreamName("wake", "x"), [NewEvent(Fact(n), uuid4())], ANY)


async def delays(reader: Any, store: EventStore[Any], numbers: range) -> list[float]:
    """Append one event after the other; give how long each takes to its reader."""
    found = []
    for n in numbers:
        await store.append(write(n))
        begun = time.monotonic()
        assert int(await reader.stdout.readline()) == n
        found.append(time.monotonic() - begun)
    return found


@ORDERINGS
async def test_s3_notices_wake_readers_of_other_processes(
    shared_database: str, prefix: str, ordering: Any
) -> None:
    """A reader in another process that looks only every 20 s is woken at once."""
    opened = await postgresql_store(
        shared_database, CODEC, prefix=prefix, ordering=ordering
    )
    store = shared_database, prefix, ordering
    async with opened as writer, Processes(*store) as processes:
        reader = await processes.start("say", 20_000, 31)
        tell(reader)
        await delays(reader, writer, range(1))  # it listens now, or has looked since
        found = await delays(reader, writer, range(1, 31))
    print(
        f"S3 {ordering}: 30 events to another process, p50 "
        f"{statistics.median(found) * 1000:.1f} ms, longest {max(found) * 1000:.1f} ms"
    )
    assert statistics.median(found) < 1
    assert max(found) < 10


@ORDERINGS
async def test_s3_lost_notices_cost_a_look(
    shared_database: str, prefix: str, ordering: Any
) -> None:
    """With every notice dropped by the server, readers see events when they look."""
    await fetch(
        shared_database,
        f"CREATE SCHEMA {prefix}",
        f"CREATE FUNCTION {prefix}.pg_notify(text, text) RETURNS void "
        "LANGUAGE sql AS 'SELECT'",
    )
    opened = await postgresql_store(
        shared_database,
        CODEC,
        prefix=prefix,
        ordering=ordering,
        connect={"server_settings": {"search_path": f"{prefix}, pg_catalog, public"}},
    )
    store = shared_database, prefix, ordering
    async with opened as mute, Processes(*store) as processes:
        reader = await processes.start("say", 200, 16)
        tell(reader)
        await delays(reader, mute, range(1))
        found = await delays(reader, mute, range(1, 16))
    print(
        f"S3 {ordering}: 15 events without notices, p50 "
        f"{statistics.median(found) * 1000:.0f} ms, longest {max(found) * 1000:.0f} ms"
    )
    assert statistics.median(found) < 2


@ORDERINGS
async def test_s3_listeners_that_are_cut_off_listen_again(
    shared_database: str, prefix: str, ordering: Any
) -> None:
    """Readers whose connections the server ends see every event, and soon."""
    opened = await postgresql_store(
        shared_database, CODEC, prefix=prefix, ordering=ordering
    )
    listening = await postgresql_store(
        shared_database,
        CODEC,
        prefix=prefix,
        ordering=ordering,
        connect={"server_settings": {"application_name": prefix}},
    )
    cut = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE application_name = $1"""
    found, cuts, after = [], 0, 0
    async with opened as writer, listening as reader, connected(shared_database) as db:
        for n in range(15):
            waiting = asyncio.create_task(
                reader.changed(after, timeout=timedelta(seconds=60))
            )
            await asyncio.sleep(0)
            cuts += await db.fetchval(cut, prefix)
            await writer.append(write(n))
            begun = time.monotonic()
            while True:
                await waiting
                page = await reader.read_all(after=after)
                after = page.reached
                if page.events:
                    break
                waiting = asyncio.create_task(
                    reader.changed(after, timeout=timedelta(seconds=60))
                )
            found.append(time.monotonic() - begun)
            assert [recorded.event.n for recorded in page.events] == [n]
    print(
        f"S3 {ordering}: {cuts} connections cut, 15 events, p50 "
        f"{statistics.median(found) * 1000:.0f} ms, longest {max(found) * 1000:.0f} ms"
    )
    assert cuts >= 15
    assert max(found) < 10
