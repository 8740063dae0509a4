"""The raw limit on PostgreSQL: asyncpg and msgspec doing the least that could count.

No envelope, no checksums, no event ids, no pool; positions from a sequence, which a
tailing reader could not trust; one index that is needed for the version check.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count, repeat
from time import perf_counter
from typing import Any

import asyncpg
import msgspec

from .bench import PAGE, STREAM, WRITERS, Bench, Signal
from .raw import _decoders, _fold, _row

_SCHEMA = """
CREATE TABLE event (
  position bigserial PRIMARY KEY,
  stream text COLLATE "C" NOT NULL,
  version int NOT NULL,
  type text NOT NULL,
  at bigint NOT NULL,
  data bytea NOT NULL,
  UNIQUE (stream, version)
);
CREATE TABLE checkpoint (name text PRIMARY KEY, position bigint NOT NULL);
INSERT INTO checkpoint VALUES ('catch-up', 0);
"""
_INSERT = (
    "INSERT INTO event (stream, version, type, at, data) VALUES ($1, $2, $3, $4, $5)"
)
_INSERT_MANY = (
    "INSERT INTO event (stream, version, type, at, data) "
    "SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::bigint[], $5::bytea[])"
)
_PAGE = (
    "SELECT position, type, data FROM event WHERE position > $1 "
    "ORDER BY position LIMIT $2"
)


@asynccontextmanager
async def _open(dsn: str, *, new: bool = False) -> AsyncGenerator[Any]:
    db = await asyncpg.connect(dsn)
    try:
        if new:
            await db.execute(_SCHEMA)
        yield db
    finally:
        await db.close()


async def _append(bench: Bench, size: int) -> float:
    versions = dict.fromkeys(range(100), 0)
    draw = random.Random(2)
    async with _open(await bench.database(), new=True) as db:
        one = await db.prepare(_INSERT)
        many = await db.prepare(_INSERT_MANY)

        async def step() -> int:
            number = draw.randrange(100)
            start = versions[number] + 1
            rows = [_row(f"account-{number}", start + i) for i in range(size)]
            if size == 1:
                await one.fetch(*rows[0])
            else:
                await many.fetch(*zip(*rows, strict=True))
            versions[number] += size
            return size

        return await bench.rate(step)


async def postgresql_append(bench: Bench) -> float:
    """One INSERT, which is its own transaction; the index checks the version."""
    return await _append(bench, 1)


async def postgresql_append_100(bench: Bench) -> float:
    """One INSERT from arrays, which is its own transaction."""
    return await _append(bench, 100)


async def postgresql_writers(bench: Bench) -> float:
    """32 connections, each does one INSERT after the other; no shared transactions."""
    dsn = await bench.database()
    versions = iter(range(10**9))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_open(dsn, new=True))
        writers = []
        for _ in range(WRITERS):
            db = await stack.enter_async_context(_open(dsn))
            writers.append(await db.prepare(_INSERT))

        async def write(number: int, start: int) -> None:
            for version in range(start, start + 5):
                await writers[number].fetch(*_row(f"account-{number}", version + 1))

        async def step() -> int:
            start = next(versions) * 5
            async with asyncio.TaskGroup() as group:
                for number in range(WRITERS):
                    group.create_task(write(number, start))
            return WRITERS * 5

        return await bench.rate(step)


async def _fill(streams: int, length: int, dsn: str) -> None:
    async with _open(dsn, new=True) as db:
        for n in range(streams):
            rows = [_row(f"account-{n}", v + 1) for v in range(length)]
            await db.fetch(_INSERT_MANY, *zip(*rows, strict=True))


async def postgresql_rehydrate_1000(bench: Bench) -> float:
    """One SELECT, decode, fold."""
    build = partial(_fill, 1, 1000)
    async with _open(await bench.prepared_database("raw-1000", build)) as db:
        select = await db.prepare(
            "SELECT type, data FROM event WHERE stream = $1 ORDER BY version"
        )

        async def step() -> int:
            rows = await select.fetch("account-0")
            state = _fold([_decoders[kind](data) for kind, data in rows])
            assert state.events == 1000
            return 1000

        return await bench.rate(step)


async def _pages(bench: Bench, *, save: bool) -> float:
    build = partial(_fill, bench.events // STREAM, STREAM)
    seen, after = 0, 0

    async def handle(event: Any) -> None:
        nonlocal seen
        seen += event.amount is not None

    async with _open(await bench.prepared_database("raw-log", build)) as db:
        select = await db.prepare(_PAGE)
        update = await db.prepare("UPDATE checkpoint SET position = $1")
        began = bench.start()
        while rows := await select.fetch(after, PAGE):
            for _, kind, data in rows:
                await handle(_decoders[kind](data))
            after = rows[-1][0]
            if save:
                await update.fetch(after)
        passed = bench.clock() - began
    assert seen == bench.events
    return seen / passed


async def postgresql_log(bench: Bench) -> float:
    """SELECT pages of 1,000, decode, call an async handler."""
    return await _pages(bench, save=False)


async def postgresql_catch_up(bench: Bench) -> float:
    """The same, and a durable checkpoint a page."""
    return await _pages(bench, save=True)


async def _live(
    bench: Bench,
    insert: Any,
    signal: Signal,
    read: Callable[[], Coroutine[Any, Any, None]],
    tell: Callable[[tuple[Any, ...]], object] = lambda _: None,
) -> tuple[float, ...]:
    """Insert row after row while a task reads; *tell* what was inserted."""
    versions = count(1)

    async def act() -> float:
        row = _row("account-0", next(versions))
        seen, began = signal.arm(), perf_counter()
        await insert.fetch(*row)
        tell(row)
        return await seen - began

    task = asyncio.create_task(read())
    try:
        return await bench.latency(act)
    finally:
        task.cancel()


async def postgresql_live(bench: Bench) -> tuple[float, ...]:
    """One INSERT, then a task that has waited decodes the event."""
    signal = Signal()
    written: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def read() -> None:
        while True:
            _, _, kind, _, data = await written.get()
            _decoders[kind](data)
            signal.fire()

    async with _open(await bench.database(), new=True) as db:
        insert = await db.prepare(_INSERT)

        return await _live(bench, insert, signal, read, written.put_nowait)


async def postgresql_live_across(bench: Bench) -> tuple[float, ...]:
    """INSERT and NOTIFY in one transaction, a listener that selects and decodes."""
    signal = Signal()
    dsn = await bench.database()
    async with _open(dsn, new=True) as db, _open(dsn) as reader:
        insert = await db.prepare(f"{_INSERT} RETURNING pg_notify('e', '')")
        select = await reader.prepare(_PAGE)
        heard = asyncio.Event()
        await reader.add_listener("e", lambda *_: heard.set())

        async def read() -> None:
            after = 0
            while True:
                await heard.wait()
                heard.clear()
                for position, kind, data in await select.fetch(after, PAGE):
                    _decoders[kind](data)
                    after = position
                    signal.fire()

        return await _live(bench, insert, signal, read)


_BOUNDARIES = """
CREATE TABLE tagged (
  position bigserial PRIMARY KEY,
  tag text COLLATE "C" NOT NULL,
  data bytea NOT NULL
);
CREATE INDEX ON tagged (tag, position);
"""
_WITH_TAGS = "SELECT position, data FROM tagged WHERE tag = ANY ($1) ORDER BY position"
_IF_NONE = (
    "INSERT INTO tagged (tag, data) SELECT $1::text, $2::bytea WHERE NOT EXISTS "
    "(SELECT FROM tagged WHERE tag = ANY ($3) AND position > $4) RETURNING position"
)
_unique = count(1)
_TEXT = {"text": "x" * 100}
_DATA = msgspec.json.encode(_TEXT)


async def _tagged(orders: int, dsn: str) -> None:
    tags = [f"order:{n}" for n in range(orders) for _ in range(STREAM)]
    async with _open(dsn) as db:
        await db.execute(_BOUNDARIES)
        await db.executemany(
            "INSERT INTO tagged (tag, data) VALUES ($1, $2)",
            zip(tags, repeat(_DATA), strict=False),
        )


async def _boundary(bench: Bench, *, read: bool, append: bool, tags: int) -> float:
    orders = bench.events // STREAM
    dsn = await bench.prepared_database("raw-tagged", partial(_tagged, orders))
    async with _open(dsn) as db:
        select, insert = await db.prepare(_WITH_TAGS), await db.prepare(_IF_NONE)

        async def step() -> int:
            n, head = next(_unique), 0
            asked = [f"order:{(n + 7 * i) % orders}" for i in range(tags)]
            if read:
                rows = await select.fetch(asked)
                head = rows[-1][0]
                assert [msgspec.json.decode(data) for _, data in rows][-1] == _TEXT
            else:
                asked = [f"unique:{n}"]
            if append:
                assert await insert.fetch(asked[0], _DATA, asked, head)
            return 1

        return await bench.rate(step)


async def boundary_append(bench: Bench) -> float:
    """One INSERT where no row has the tag, which holds against nobody else's."""
    return await _boundary(bench, read=False, append=True, tags=1)


async def boundary_read(bench: Bench) -> float:
    """One SELECT of a tag by its index, decode."""
    return await _boundary(bench, read=True, append=False, tags=1)


async def boundary_decide(bench: Bench) -> float:
    """One SELECT of two tags, decode, one INSERT where there is none after it."""
    return await _boundary(bench, read=True, append=True, tags=2)
