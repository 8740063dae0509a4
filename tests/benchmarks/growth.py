"""Growth: what an append, a load and a page cost in a small log and in a large one.

A log grows through the store, 500 events an append, without waiting for the disk. Small
and large are measured on two files or databases side by side, in interleaved rounds.
"""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from evsrc.core.expectation import ANY
from evsrc.ports import Appended, Conflict, EventStore, Write
from evsrc.stores.memory import memory_store
from evsrc.stores.postgresql import postgresql_store
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing.databases import fresh_database

from .bench import PAGE, STREAM, execute
from .domain import Event
from .evsrc_core import _deposited, _stream, codec
from .report import short

STORES: Final = ("sqlite", "postgresql", "memory")
SIZES: Final = (50_000, 2_000_000)
QUICK: Final = (20_000, 100_000)
_ROUNDS: Final = 7
_GOAL: Final = 1.3

Step = Callable[[], Awaitable[None]]


async def _grow(store: EventStore[Event], start: int, end: int) -> None:
    for first in range(start // STREAM, end // STREAM, 50):
        writes = [
            Write(_stream(n), [_deposited() for _ in range(STREAM)], 0)
            for n in range(first, first + 50)
        ]
        await store.append(*writes)


def _steps(store: EventStore[Event], events: int) -> dict[str, tuple[int, Step]]:
    """Give what is measured, by name, and how often in a round."""
    draw = random.Random(events)
    streams = events // STREAM
    used = iter(draw.sample(range(streams), streams))
    fresh = iter(range(streams, 10**9))

    async def append_new() -> None:
        await store.append(Write(_stream(next(fresh)), [_deposited()], 0))

    async def append_expected() -> None:
        write = Write(_stream(next(used)), [_deposited()], STREAM)
        assert isinstance(await store.append(write), Appended)

    async def append_any() -> None:
        write = Write(_stream(draw.randrange(streams)), [_deposited()], ANY)
        await store.append(write)

    async def conflict() -> None:
        write = Write(_stream(draw.randrange(streams)), [_deposited()], 3)
        assert isinstance(await store.append(write), Conflict)

    async def load() -> None:
        loaded = await store.load_events(_stream(draw.randrange(streams)))
        assert loaded.version >= STREAM

    async def page() -> None:
        page = await store.read_all(after=draw.randrange(events - PAGE), limit=PAGE)
        assert len(page.events) == PAGE

    return {
        "append 1 to a new stream": (200, append_new),
        "append 1 at its expected version": (200, append_expected),
        "append 1 at ANY version": (200, append_any),
        "append 1 that conflicts": (200, conflict),
        "load a 10-event stream": (300, load),
        "read a page of 1,000": (15, page),
    }


async def _time(times: int, step: Step) -> float:
    gc.collect()
    each: list[float] = []
    for _ in range(times):
        began = perf_counter()
        await step()
        each.append(perf_counter() - began)
    return median(each) * 1e6


async def _compare(
    kind: str,
    small: EventStore[Event],
    large: EventStore[Event],
    sizes: tuple[int, int],
) -> list[dict[str, Any]]:
    pairs = (_steps(small, sizes[0]), _steps(large, sizes[1]))
    found: list[dict[str, Any]] = []
    for name in pairs[0]:
        rounds: list[tuple[float, float]] = []
        for number in range(_ROUNDS + 1):  # the first one warms up
            order = (0, 1) if number % 2 else (1, 0)
            took = {which: await _time(*pairs[which][name]) for which in order}
            rounds.append((took[0], took[1]))
        ratios = [large / small for small, large in rounds[1:]]
        found.append(
            {
                "store": kind,
                "step": name,
                "small_us": median(small for small, _ in rounds[1:]),
                "large_us": median(large for _, large in rounds[1:]),
                "ratio": median(ratios),
                "least": min(ratios),
                "most": max(ratios),
            }
        )
    return found


async def _sqlite(folder: Path, sizes: tuple[int, int]) -> list[dict[str, Any]]:
    small, large = folder / "small.db", folder / "large.db"
    async with await sqlite_store(large, codec, synchronous="NORMAL") as store:
        await _grow(store, 0, sizes[0])
    shutil.copy(large, small)  # closed: there is nothing beside the file
    began = perf_counter()
    async with await sqlite_store(large, codec, synchronous="NORMAL") as store:
        await _grow(store, *sizes)
    rate = (sizes[1] - sizes[0]) / (perf_counter() - began)
    megabytes = large.stat().st_size / 1e6
    print(f"SQLite file grown at {short(rate)} ev/s to {megabytes:,.0f} MB")
    async with (
        await sqlite_store(small, codec, synchronous="NORMAL") as one,
        await sqlite_store(large, codec, synchronous="NORMAL") as other,
    ):
        return await _compare("sqlite", one, other, sizes)


async def _postgresql(url: str, sizes: tuple[int, int]) -> list[dict[str, Any]]:
    with fresh_database(url) as small, fresh_database(url) as large:
        for dsn, events in ((small, sizes[0]), (large, sizes[1])):
            began = perf_counter()
            quick = {"server_settings": {"synchronous_commit": "off"}}
            async with await postgresql_store(
                dsn, codec, accept_loss=True, connect=quick
            ) as store:
                await _grow(store, 0, events)
            rate = short(events / (perf_counter() - began))
            print(f"PostgreSQL log of {short(events)} grown at {rate} ev/s", flush=True)
            await execute(dsn, "VACUUM ANALYZE")
        await execute(large, "CHECKPOINT")
        async with (
            await postgresql_store(small, codec) as one,
            await postgresql_store(large, codec) as other,
        ):
            return await _compare("postgresql", one, other, sizes)


async def _memory(sizes: tuple[int, int]) -> list[dict[str, Any]]:
    small, large = memory_store(codec), memory_store(codec)
    await _grow(small, 0, sizes[0])
    await _grow(large, 0, sizes[1])
    gc.freeze()  # the collector's walk over millions of live objects is not the store's
    return await _compare("memory", small, large, sizes)


def run(
    folder: Path, server: str, stores: Sequence[str], small: int, large: int
) -> dict[str, Any]:
    """Measure *stores*, print and give the ratios."""
    found: list[dict[str, Any]] = []
    sizes = small, large
    if "sqlite" in stores:
        found += asyncio.run(_sqlite(folder, sizes))
    if "postgresql" in stores and server:
        found += asyncio.run(_postgresql(server, sizes))
    if "memory" in stores:
        found += asyncio.run(_memory(sizes))
    head = f"{'store':<12}{'step':<36}{short(small) + ', us':>12}"
    print(f"{head}{short(large) + ', us':>12}{'large/small':>13}  (rounds)")
    for one in found:
        mark = "reached" if one["ratio"] <= _GOAL else "SHORT"
        print(
            f"{one['store']:<12}{one['step']:<36}{one['small_us']:>12.1f}"
            f"{one['large_us']:>12.1f}{one['ratio']:>13.2f}  "
            f"({one['least']:.2f}-{one['most']:.2f}) {mark}"
        )
    return {"sizes": [small, large], "goal": _GOAL, "growth": found}
