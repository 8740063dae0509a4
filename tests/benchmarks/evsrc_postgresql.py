"""evsrc as functions, on PostgreSQL; `_concurrent`: with ordering="concurrent".

The store opens its own pool, and has its default settings.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from evsrc.stores.postgresql import PostgreSQLStore, postgresql_store

from . import processes
from .bench import Bench
from .domain import Event
from .evsrc_core import (
    _append_to,
    _catch_up,
    _fill_log,
    _fill_stream,
    _live,
    _read_log,
    _rehydrate,
    _writing,
    codec,
)


async def _open(dsn: str, **options: Any) -> PostgreSQLStore[Event]:
    return await postgresql_store(dsn, codec, **options)


async def _append(bench: Bench, size: int, **options: Any) -> float:
    async with await _open(await bench.database(), **options) as store:
        return await _append_to(bench, store, size)


async def postgresql_append(bench: Bench) -> float:
    """One event a call, at its expected version, to one of 100 streams."""
    return await _append(bench, 1)


async def postgresql_append_concurrent(bench: Bench) -> float:
    """The same, positions in no order of commits."""
    return await _append(bench, 1, ordering="concurrent")


async def postgresql_append_100(bench: Bench) -> float:
    """A hundred events a call, to one of 100 streams."""
    return await _append(bench, 100)


async def postgresql_append_100_concurrent(bench: Bench) -> float:
    """The same, positions in no order of commits."""
    return await _append(bench, 100, ordering="concurrent")


async def _writers(bench: Bench, **options: Any) -> float:
    async with await _open(await bench.database(), **options) as store:
        return await bench.rate(_writing(store, 0))


async def postgresql_writers(bench: Bench) -> float:
    """32 tasks, each appends one event after the other to a stream of its own."""
    return await _writers(bench)


async def postgresql_writers_concurrent(bench: Bench) -> float:
    """The same, positions in no order of commits."""
    return await _writers(bench, ordering="concurrent")


async def postgresql_writers_alone(bench: Bench) -> float:
    """The same without group commit: `largest_commit=1`."""
    return await _writers(bench, largest_commit=1)


@asynccontextmanager
async def writing(dsn: str, first: int) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """Give one process its step of 32 writers."""
    async with await _open(dsn) as store:
        yield _writing(store, first)


@asynccontextmanager
async def writing_concurrent(
    dsn: str, first: int
) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """The same, positions in no order of commits."""
    async with await _open(dsn, ordering="concurrent") as store:
        yield _writing(store, first)


async def postgresql_processes(bench: Bench) -> float:
    """Four processes, each with the 32 tasks of the row before."""
    return processes.writers(bench, __name__, "writing", await bench.database())


async def postgresql_processes_concurrent(bench: Bench) -> float:
    """The same, positions in no order of commits."""
    dsn = await bench.database()
    return processes.writers(bench, __name__, "writing_concurrent", dsn)


async def _one_stream(count: int, dsn: str) -> None:
    async with await _open(dsn, accept_loss=True) as store:
        await _fill_stream(store, count)


async def postgresql_rehydrate_1000(bench: Bench) -> float:
    """`load_events` and `fold` of a stream of 1,000."""
    dsn = await bench.prepared_database("core-1000", partial(_one_stream, 1000))
    async with await _open(dsn) as store:
        return await _rehydrate(bench, store, 1000)


async def _log(events: int, ordering: str, dsn: str) -> None:
    async with await _open(dsn, ordering=ordering, accept_loss=True) as store:
        await _fill_log(store, events)


def _prepared_log(bench: Bench, ordering: str = "serial") -> Awaitable[str]:
    build = partial(_log, bench.events, ordering)
    return bench.prepared_database(f"core-log-{ordering}", build)


async def postgresql_log(bench: Bench) -> float:
    """Pages of 1,000 from `read_all`, each event to an async handler."""
    async with await _open(await _prepared_log(bench)) as store:
        return await _read_log(bench, store)


async def postgresql_log_concurrent(bench: Bench) -> float:
    """The same, each page after the watermark."""
    dsn = await _prepared_log(bench, "concurrent")
    async with await _open(dsn, ordering="concurrent") as store:
        return await _read_log(bench, store)


async def postgresql_catch_up(bench: Bench) -> float:
    """`subscribe` from the beginning, the store's checkpoints, pages of 1,000."""
    async with await _open(await _prepared_log(bench)) as store:
        return await _catch_up(bench, store)


async def postgresql_live(bench: Bench) -> tuple[float, ...]:
    """From the call of `append` to the handler of a subscription of the same store."""
    async with await _open(await bench.database()) as store:
        return await _live(bench, store, store)


async def postgresql_live_across(bench: Bench) -> tuple[float, ...]:
    """The same, the subscription has a store of its own: only NOTIFY tells it."""
    dsn = await bench.database()
    async with await _open(dsn) as store, await _open(dsn) as other:
        return await _live(bench, store, other)
