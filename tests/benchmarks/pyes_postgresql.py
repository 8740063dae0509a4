"""eventsourcing ("PY") on PostgreSQL, through psycopg and its pool.

`POSTGRES_POOL_SIZE` is large enough that no thread waits for a connection; the rest has
its default settings. `_functions`: with `POSTGRES_ENABLE_DB_FUNCTIONS`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner

from . import processes
from .bench import PAGE, STREAM, WRITERS, Bench
from .pyes import (
    Accounts,
    _append_to,
    _events,
    _id,
    _long,
    _read_log,
    _rehydrate,
    _writing,
)


def _environment(dsn: str, **more: str) -> dict[str, str]:
    parts = urlsplit(dsn)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path.strip("/"),
        "POSTGRES_HOST": str(parts.hostname),
        "POSTGRES_PORT": str(parts.port),
        "POSTGRES_USER": str(parts.username),
        "POSTGRES_PASSWORD": str(parts.password),
        "POSTGRES_POOL_SIZE": "1",
        "POSTGRES_MAX_OVERFLOW": str(WRITERS),
        **more,
    }


@contextmanager
def _open(dsn: str, **more: str) -> Generator[Accounts]:
    application = Accounts(env=_environment(dsn, **more))
    try:
        yield application
    finally:
        application.close()


async def postgresql_append(bench: Bench) -> float:
    """`events.put` of one event to one of 100 aggregates."""
    with _open(await bench.database()) as application:
        return _append_to(bench, application, 1)


async def postgresql_append_functions(bench: Bench) -> float:
    """The same through its function in the database."""
    dsn = await bench.database()
    with _open(dsn, POSTGRES_ENABLE_DB_FUNCTIONS="y") as application:
        return _append_to(bench, application, 1)


async def postgresql_append_100(bench: Bench) -> float:
    """`events.put` of a hundred events to one of 100 aggregates."""
    with _open(await bench.database()) as application:
        return _append_to(bench, application, 100)


async def postgresql_append_100_functions(bench: Bench) -> float:
    """The same through its function in the database."""
    dsn = await bench.database()
    with _open(dsn, POSTGRES_ENABLE_DB_FUNCTIONS="y") as application:
        return _append_to(bench, application, 100)


def _writers(bench: Bench, dsn: str, **more: str) -> float:
    with _open(dsn, **more) as application, _writing(application, 0) as step:
        return bench.rate_of(step)


async def postgresql_writers(bench: Bench) -> float:
    """32 threads, each puts one event after the other to an aggregate of its own."""
    return _writers(bench, await bench.database())


async def postgresql_writers_functions(bench: Bench) -> float:
    """The same through its function in the database."""
    dsn = await bench.database()
    return _writers(bench, dsn, POSTGRES_ENABLE_DB_FUNCTIONS="y")


@asynccontextmanager
async def writing(dsn: str, first: int) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """Give one process its step of 32 writers."""
    opened = _open(dsn, CREATE_TABLE="no")
    with opened as application, _writing(application, first) as put:

        async def step() -> int:
            return put()

        yield step


async def postgresql_processes(bench: Bench) -> float:
    """Four processes, each with the 32 threads of the row before."""
    dsn = await bench.database()
    with _open(dsn):  # creates the tables
        return processes.writers(bench, __name__, "writing", dsn)


_ids: dict[int, UUID] = {}


async def _one_stream(count: int, dsn: str) -> None:
    with _open(dsn) as application:
        _ids[count] = _long(application, count)


async def postgresql_rehydrate_1000(bench: Bench) -> float:
    """`repository.get` of an aggregate of 1,000 events."""
    dsn = await bench.prepared_database("pyes-1000", partial(_one_stream, 1000))
    with _open(dsn) as application:
        return _rehydrate(bench, application, _ids[1000], 1000)


async def _log(events: int, dsn: str) -> None:
    with _open(dsn) as application:
        for n in range(events // STREAM):
            application.events.put(_events(_id(n), 0, STREAM))


def _prepared_log(bench: Bench) -> Awaitable[str]:
    return bench.prepared_database("pyes-log", partial(_log, bench.events))


async def postgresql_log(bench: Bench) -> float:
    """`select_notifications` by pages of 1,000, decoded, to a function."""
    with _open(await _prepared_log(bench)) as application:
        return _read_log(bench, application)


class _View(PostgresTrackingRecorder):
    """Where the projections keep how far they are."""


@contextmanager
def _running(projection: type[Projection[_View]], dsn: str) -> Generator[Any]:
    runner = ProjectionRunner(
        application_class=Accounts,
        projection_class=projection,
        view_class=_View,
        env=_environment(dsn),
    )
    with runner, runner.view.datastore:
        yield runner


_runs = iter(range(10**9))


class _Counts(Projection[_View]):
    """Counts, and records its place once a page."""

    wanted = 0

    def __init__(self, view: _View) -> None:
        super().__init__(view)
        self.seen = 0
        self.done: SimpleQueue[int] = SimpleQueue()

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Count one event."""
        self.seen += domain_event.amount is not None
        if self.seen % PAGE == 0 or self.seen == self.wanted:
            self.view.insert_tracking(tracking)
        if self.seen == self.wanted:
            self.done.put(self.seen)


async def postgresql_catch_up(bench: Bench) -> float:
    """`ProjectionRunner`, a projection that inserts its tracking once in 1,000."""
    dsn = await _prepared_log(bench)
    _Counts.wanted = bench.events
    # its name is that of its table, so that each starts from the beginning
    projection = type(f"Counts{next(_runs)}", (_Counts,), {})
    began = bench.start()
    with _running(projection, dsn) as runner:
        seen = runner.projection.done.get(timeout=120)
        passed = bench.clock() - began
        assert runner.view.max_tracking_id("Accounts") is not None
    return float(seen / passed)


class _Signals(Projection[_View]):
    """Tells when it was called, then records its place."""

    def __init__(self, view: _View) -> None:
        super().__init__(view)
        self.at: SimpleQueue[float] = SimpleQueue()

    def process_event(self, _: Any, tracking: Tracking) -> None:
        """Tell."""
        self.at.put(perf_counter())
        self.view.insert_tracking(tracking)


async def postgresql_live(bench: Bench) -> tuple[float, ...]:
    """From the call of `events.put` to the projection of a running runner."""
    versions = iter(range(10**9))
    with _running(_Signals, await bench.database()) as runner:

        async def act() -> float:
            events = _events(_id(0), next(versions), 1)
            began = perf_counter()
            runner.app.events.put(events)
            return runner.projection.at.get(timeout=20) - began

        return await bench.latency(act)


postgresql_live_across = postgresql_live
"""Its subscriptions learn of events by NOTIFY in any case."""
