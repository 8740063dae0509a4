"""eventsource-py on PostgreSQL: its store over a SQLAlchemy engine on asyncpg.

The tables are those of its own SQL. The engine has SQLAlchemy's pool, large enough that
no writer waits for a connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from eventsource import PostgreSQLEventStore
from eventsource.adapters._sql.engine import create_async_engine
from eventsource.adapters.sql.schemas import get_schema

from . import processes
from .bench import WRITERS, Bench
from .es import (
    _append_to,
    _catch_up,
    _fill_log,
    _fill_stream,
    _live,
    _read_log,
    _rehydrate,
    _writing,
)


async def _fresh(bench: Bench) -> str:
    dsn = await bench.database()
    await _create(dsn)
    return dsn


async def _create(dsn: str) -> None:
    db = await asyncpg.connect(dsn)
    # its file for checkpoints holds a function, which nothing calls, with a syntax error
    await db.execute("SET check_function_bodies = off")
    for table in ("events", "checkpoints"):
        await db.execute(get_schema(table))
    await db.close()


@asynccontextmanager
async def _open(dsn: str) -> AsyncGenerator[tuple[Any, Any]]:
    url = dsn.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=WRITERS)
    try:
        yield PostgreSQLEventStore(engine), engine
    finally:
        await engine.dispose()


async def _append(bench: Bench, size: int) -> float:
    async with _open(await _fresh(bench)) as (store, _):
        return await _append_to(bench, store, size)


async def postgresql_append(bench: Bench) -> float:
    """`append` of one event to one of 100 streams."""
    return await _append(bench, 1)


async def postgresql_append_100(bench: Bench) -> float:
    """`append` of a hundred events to one of 100 streams."""
    return await _append(bench, 100)


async def postgresql_writers(bench: Bench) -> float:
    """32 tasks, each appends one event after the other to a stream of its own."""
    async with _open(await _fresh(bench)) as (store, _):
        return await bench.rate(_writing(store, 0))


@asynccontextmanager
async def writing(dsn: str, first: int) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """Give one process its step of 32 writers."""
    async with _open(dsn) as (store, _):
        yield _writing(store, first)


async def postgresql_processes(bench: Bench) -> float:
    """Four processes, each with the 32 tasks of the row before."""
    return processes.writers(bench, __name__, "writing", await _fresh(bench))


async def _one_stream(count: int, dsn: str) -> None:
    await _create(dsn)
    async with _open(dsn) as (store, _):
        await _fill_stream(store, count)


async def postgresql_rehydrate_1000(bench: Bench) -> float:
    """`load` of an aggregate of 1,000 events."""
    dsn = await bench.prepared_database("es-1000", partial(_one_stream, 1000))
    async with _open(dsn) as (store, _):
        return await _rehydrate(bench, store, 1000)


async def _log(events: int, dsn: str) -> None:
    await _create(dsn)
    async with _open(dsn) as (store, _):
        await _fill_log(store, events, 4)


def _prepared_log(bench: Bench) -> Awaitable[str]:
    return bench.prepared_database("es-log", partial(_log, bench.events))


async def postgresql_log(bench: Bench) -> float:
    """`read_all` by pages of 1,000, each event to an async handler."""
    async with _open(await _prepared_log(bench)) as (store, _):
        return await _read_log(bench, store)


async def postgresql_catch_up(bench: Bench) -> float:
    """`SubscriptionManager` with `SQLCheckpointRepository`, pages of 1,000."""
    async with _open(await _prepared_log(bench)) as (store, engine):
        return await _catch_up(bench, store, engine)


async def postgresql_live(bench: Bench) -> tuple[float, ...]:
    """From the call of `append`, then `publish`, to the subscriber of a manager."""
    async with _open(await _fresh(bench)) as (store, engine):
        return await _live(bench, store, engine)
