"""The raw limit: `sqlite3` and msgspec doing the least that could count.

No envelope, no checksums, no event ids, and but for live events no thread; one index
that is needed for the version check. The same durability as everybody else.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable
from functools import partial
from time import perf_counter, time_ns
from typing import Any

import aiosqlite
import msgspec

from .bench import PAGE, STREAM, Bench, Signal
from .domain import (
    TYPES,
    Account,
    Deposit,
    Deposited,
    Open,
    decide,
    evolve,
    fresh_values,
    values,
)

NAME = "limit"
IMPORTS = "import asyncio, sqlite3, aiosqlite, msgspec"

_SCHEMA = """
CREATE TABLE event (
  position INTEGER PRIMARY KEY,
  stream TEXT NOT NULL,
  version INTEGER NOT NULL,
  type TEXT NOT NULL,
  at INTEGER NOT NULL,
  data BLOB NOT NULL,
  UNIQUE (stream, version)
);
CREATE TABLE checkpoint (name TEXT PRIMARY KEY, position INTEGER NOT NULL);
"""
_INSERT = "INSERT INTO event VALUES (NULL, ?, ?, ?, ?, ?)"
_encode = msgspec.json.Encoder().encode
_decoders = {name: msgspec.json.Decoder(cls).decode for name, cls in TYPES.items()}


def _open(path: str, synchronous: str = "FULL") -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute("PRAGMA cache_size = -32768")
    if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        db.executescript(_SCHEMA)
    return db


def _row(stream: str, version: int) -> tuple[Any, ...]:
    data = _encode(Deposited(*values()))
    return stream, version, "deposited", time_ns() // 1000, data


def _fold(events: Iterable[Any]) -> Account:
    state = Account()
    for event in events:
        state = evolve(state, event)
    return state


def memory_commands(bench: Bench) -> float:
    """A dict of lists: decide, evolve, three appends."""
    log: list[Any] = []
    streams: dict[str, list[Any]] = {}
    number = iter(range(10**9))

    def step() -> int:
        stream = f"account-{next(number)}"
        known = streams.get(stream, [])
        state, version, new = _fold(known), len(known), []
        for kind in (Open, Deposit, Deposit):
            (event,) = decide(state, kind(*values()))
            state = evolve(state, event)
            new.append(event)
        assert len(streams.setdefault(stream, [])) == version
        streams[stream] += new
        log.extend(new)
        return 3

    return bench.rate_of(step)


def memory_rehydrate(bench: Bench) -> float:
    """Fold a list of 1,000."""
    events = [Deposited(*values()) for _ in range(1000)]

    def step() -> int:
        assert _fold(events).events == 1000
        return 1000

    return bench.rate_of(step)


def _load(db: sqlite3.Connection, stream: str) -> Account:
    rows = db.execute(
        "SELECT type, data FROM event WHERE stream = ? ORDER BY version", (stream,)
    ).fetchall()
    return _fold([_decoders[kind](data) for kind, data in rows])


async def _one_stream(count: int, path: str) -> None:
    db = _open(path)
    db.execute("BEGIN")
    db.executemany(_INSERT, [_row("account-0", v + 1) for v in range(count)])
    db.execute("COMMIT")
    db.close()


async def _rehydrate(bench: Bench, count: int) -> float:
    path = await bench.prepared(f"raw-{count}", partial(_one_stream, count))
    db = _open(path)

    def step() -> int:
        assert _load(db, "account-0").events == count
        return count

    return bench.rate_of(step)


async def sqlite_rehydrate_1000(bench: Bench) -> float:
    """One SELECT, decode, fold."""
    return await _rehydrate(bench, 1000)


async def sqlite_rehydrate_10000(bench: Bench) -> float:
    """One SELECT, decode, fold."""
    return await _rehydrate(bench, 10_000)


async def _log(events: int, path: str) -> None:
    db = _open(path)
    db.execute("BEGIN")
    for n in range(events // STREAM):
        rows = [_row(f"account-{n}", v + 1) for v in range(STREAM)]
        db.executemany(_INSERT, rows)
    db.execute("COMMIT")
    db.close()


async def sqlite_load(bench: Bench) -> float:
    """One SELECT, decode, fold."""
    db = _open(await bench.prepared("raw-log", partial(_log, bench.events)))
    draw = random.Random(1)

    def step() -> int:
        number = draw.randrange(bench.events // STREAM)
        assert _load(db, f"account-{number}").events == STREAM
        return 1

    return bench.rate_of(step)


def _append(bench: Bench, size: int, synchronous: str) -> float:
    db = _open(bench.file(), synchronous)
    versions = dict.fromkeys(range(100), 0)
    draw = random.Random(2)

    def step() -> int:
        number = draw.randrange(100)
        start = versions[number] + 1
        if size == 1:
            db.execute(_INSERT, _row(f"account-{number}", start))
        else:
            db.execute("BEGIN IMMEDIATE")
            rows = [_row(f"account-{number}", start + i) for i in range(size)]
            db.executemany(_INSERT, rows)
            db.execute("COMMIT")
        versions[number] += size
        return size

    return bench.rate_of(step)


def sqlite_append_full(bench: Bench) -> float:
    """One INSERT, which is its own transaction; the index checks the version."""
    return _append(bench, 1, "FULL")


def sqlite_append_normal(bench: Bench) -> float:
    """The same, synchronous=NORMAL."""
    return _append(bench, 1, "NORMAL")


def sqlite_append_100(bench: Bench) -> float:
    """BEGIN, executemany, COMMIT."""
    return _append(bench, 100, "FULL")


async def _pages(bench: Bench, *, save: bool) -> float:
    db = _open(await bench.prepared("raw-log", partial(_log, bench.events)))
    seen, after = 0, 0

    async def handle(event: Any) -> None:
        nonlocal seen
        seen += event.amount is not None

    began = bench.start()
    while True:
        rows = db.execute(
            "SELECT position, type, data FROM event WHERE position > ? "
            "ORDER BY position LIMIT ?",
            (after, PAGE),
        ).fetchall()
        if not rows:
            break
        for _, kind, data in rows:
            await handle(_decoders[kind](data))
        after = rows[-1][0]
        if save:
            db.execute("REPLACE INTO checkpoint VALUES ('catch-up', ?)", (after,))
    passed = bench.clock() - began
    assert seen == bench.events
    return seen / passed


async def sqlite_log(bench: Bench) -> float:
    """SELECT pages of 1,000, decode, call an async handler."""
    return await _pages(bench, save=False)


async def sqlite_catch_up(bench: Bench) -> float:
    """The same, and a durable checkpoint a page."""
    return await _pages(bench, save=True)


async def sqlite_live(bench: Bench) -> tuple[float, ...]:
    """One INSERT through aiosqlite, which is its own transaction; then the handler."""
    path, versions, signal = bench.file(), iter(range(10**9)), Signal()
    _open(path).close()
    async with aiosqlite.connect(path, isolation_level=None) as db:
        await db.execute("PRAGMA synchronous = FULL")

        async def act() -> float:
            row = _row("account-0", next(versions))
            seen, began = signal.arm(), perf_counter()
            await db.execute(_INSERT, row)
            signal.fire()
            return await seen - began

        return await bench.latency(act)


def one_event(bench: Bench) -> tuple[float, ...]:
    """A msgspec struct."""
    fields = values()
    event = Deposited(*fields)
    data, decode = _encode(event), _decoders["deposited"]
    return (
        bench.microseconds(lambda: Deposited(*fields)),
        bench.microseconds(lambda: _encode(event)),
        bench.microseconds(lambda: decode(data)),
    )


async def live_events(count: int) -> object:
    """The bytes of the events in a list."""
    return [_encode(Deposited(*fresh_values())) for _ in range(count)]
