"""S2 and S8: exactly once over kill -9, and rebuilds that lose and leave nothing.

`pytest -m soak -n 0 tests/guarantees/test_projections.py -s` is the long form.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evsrc import (
    RETIRED,
    Delivery,
    HandlerProjection,
    Park,
    ProjectionDefinition,
    RebuildProgress,
    Redriven,
    SQLiteConnection,
    SubscriptionStateError,
    ViewProjection,
    cancel_rebuild,
    load_view,
    project,
    rebuild,
)
from evsrc.cli import log, models
from evsrc.cli.record import record
from evsrc.cli.rows import check
from evsrc.ports import EventStore
from evsrc.stores.postgresql import postgresql_store
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing import CODEC
from evsrc.testing.databases import fresh_database
from tests.guarantees.test_poison import tried
from tests.projections import (
    FACTS,
    Store,
    fetch,
    folded,
    note,
    sums_in,
    sums_table,
    sums_view,
    tables_of,
    write,
)
from tests.test_demo import WEEK, YEAR

ROOT = Path(__file__).parents[2]
PROCESS = "tests.guarantees.projection_process"
KILLS, SOAKED = 10, 100
STEPS = ("setup", "setup done", "handle", "handle done", "lock", "swap", "swap done")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give a new database for one test."""
    if request.param == "sqlite":
        yield str(tmp_path / "events.db")
        return
    with fresh_database(request.getfixturevalue("evsrc_postgres_url")) as url:
        yield url


async def opened(database: str, codec: Any = CODEC) -> EventStore[Any]:
    if "://" in database:
        return await postgresql_store(database, codec)
    return await sqlite_store(database, codec)


class Worker:
    """A process that runs a projection, and what it has said."""

    def __init__(self, mode: str, database: str, last: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", PROCESS, mode, database, last],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []

    def _read(self, enough: Callable[[list[str]], bool]) -> None:
        assert self.process.stdout is not None
        while not enough(self.said):
            line = self.process.stdout.readline()
            if not line:
                return
            self.said.append(line.strip())

    async def killed_when(self, enough: Callable[[list[str]], bool]) -> list[str]:
        """Kill -9 it once it has said *enough*, or wait for its end."""
        try:
            await asyncio.to_thread(self._read, enough)
        finally:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
        return self.said


async def fill(store: Store, count: int, start: int = 0) -> None:
    """Append *count* facts to some streams, and something else between them."""
    for n in range(start, start + count, 10):
        writes = [write(f"s{(n + i) % 7}", n + i) for i in range(10)]
        await store.append(*writes, note("x"))


async def check_exact(store: Store, up_to: int | None = None) -> int:
    """See that the table holds each fact exactly once; give how many there are."""
    after, positions = 0, []
    while True:
        page = await store.read_all(FACTS, after=after)
        positions += [r.position for r in page.events]
        if page.reached >= page.head:
            break
        after = page.reached
    async with store.transaction() as tx:
        rows = await fetch(tx.connection, "SELECT position FROM sums ORDER BY position")
    wanted = [p for p in positions if up_to is None or p <= up_to]
    assert [row[0] for row in rows] == wanted
    return len(rows)


def picky(bad: int) -> HandlerProjection[Any]:
    """Keep the table, but not of this fact."""
    definition = sums_table()

    async def handle(tx: Any, events: Sequence[Any]) -> None:
        if any(recorded.event.n == bad for recorded in events):
            raise ValueError(bad)
        await definition.handle(tx, events)

    return replace(definition, handle=handle)


@pytest.mark.parametrize("step", ["handle", "handle done", "committed"])
async def test_s2_a_redrive_killed_at_each_step_is_done_once(
    database: str, step: str
) -> None:
    """The same call does it again as soon as the dead one's lease is over, or never."""
    async with await opened(database) as store:
        await fill(store, 30)
        parking: Delivery[Any] = Delivery(on_failure=lambda _: Park())
        async with project(store, picky(13), parking) as projection:
            await projection.subscription.caught_up()
        said = await Worker("redrive", database, step).killed_when(
            lambda said: step in said
        )
        assert said[-1] == step
        letters = project(store, sums_table()).subscription.dead_letters
        (letter,) = await letters.list()
        if step == "committed":
            with pytest.raises(SubscriptionStateError, match="resolved"):
                await letters.redrive(letter)
        else:
            assert letter.status == "retrying"
            assert await tried(lambda: letters.redrive(letter)) == Redriven(1)
        assert await check_exact(store) == 30


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(KILLS, marks=pytest.mark.timeout(180)),
        pytest.param(SOAKED, marks=[pytest.mark.timeout(3600), pytest.mark.soak]),
    ],
)
async def test_s2_a_killed_worker_doubles_and_loses_nothing(
    database: str, kills: int
) -> None:
    """Killed in its transactions and between them, the model holds each event once."""
    chance = random.Random(2)
    batches = 0
    async with await opened(database) as store:
        for n in range(kills):
            appending = asyncio.create_task(fill(store, 500, 500 * n))
            count = chance.randint(1, 30)
            said = await Worker("work", database).killed_when(
                lambda said, count=count: len(said) >= count
            )
            batches += said.count("handle")
            await appending
        async with project(store, sums_table()) as projection:
            await projection.subscription.caught_up()
        assert await sums_in(store) == await folded(store)
        rows = await check_exact(store)
        assert await store.verify() == ()
    print(f"S2: {kills} kills, {batches} batches, {rows} events, 0 lost, 0 doubled")
    assert rows == 500 * kills
    assert batches > kills


@pytest.mark.timeout(240)
async def test_s8_a_rebuild_killed_at_each_step_goes_on(database: str) -> None:
    """Under load, and killed at each of its steps, it swaps once and loses nothing."""
    async with await opened(database) as store:
        await fill(store, 600)
        appending = asyncio.create_task(keep_filling(store))
        worker = project(store, sums_table(), Delivery(page=40))
        try:
            async with worker:
                for step in STEPS:
                    said = await Worker("build", database, step).killed_when(
                        lambda said, step=step: step in said
                    )
                    assert said[-1] == step
                said = await Worker("build", database).killed_when(lambda _: False)
                assert said[-1] == "swapped"
        finally:
            appending.cancel()
            await asyncio.wait([appending])
        old, new = [await store.checkpoints.load(name) for name in ("sums@1", "sums@2")]
        assert old is not None
        assert new is not None
        assert old.position == RETIRED
        swapped = await check_exact(store, new.position)
        assert await tables_of(store) == {"sums"}
        async with project(store, sums_table("sums@2")) as projection:
            await projection.subscription.caught_up()
        rows = await check_exact(store)
        assert await sums_in(store) == await folded(store)
    print(
        f"S8: killed at {len(STEPS)} steps; {swapped} events at the swap, {rows} in all"
    )
    assert swapped >= 600


async def keep_filling(store: Store) -> None:
    """Append for ever."""
    n = 600
    while True:
        await fill(store, 10, n)
        n += 10
        await asyncio.sleep(0.01)


# A crash at each call of the store, in this process.


class _CrashError(Exception):
    """The process ends here."""


def crashing(store: Store, at: int, *, after: bool) -> tuple[Store, list[int]]:
    """Let the *at*-th call fail, before it is made or once it was made."""
    calls = [0]

    def counted(call: Callable[..., Awaitable[Any]]) -> Any:
        async def crash(*given: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == at and not after:
                raise _CrashError
            result = await call(*given, **more)
            if calls[0] == at:
                raise _CrashError
            return result

        return crash

    @asynccontextmanager
    async def transaction() -> AsyncGenerator[Any]:
        calls[0] += 1
        now = calls[0] == at
        async with store.transaction() as tx:
            yield replace(tx, append=counted(tx.append))
            if now and not after:
                raise _CrashError
        if now:
            raise _CrashError

    kept, states = store.checkpoints, store.snapshots
    crashes = replace(
        store,
        transaction=transaction,
        read_all=counted(store.read_all),
        checkpoints=replace(kept, load=counted(kept.load)),
        snapshots=replace(states, delete=counted(states.delete)),
    )
    return crashes, calls


@pytest.mark.parametrize("kind", ["view", "table"])
@pytest.mark.timeout(120)
async def test_s8_a_crash_at_each_call_is_resumed(database: str, kind: str) -> None:
    """Wherever it ends, the next run goes on, swaps once, and the model is a fold."""
    crashes = 0
    async with await opened(database) as store:
        await fill(store, 40)
        versions = 1
        first = sums_view() if kind == "view" else sums_table()
        async with project(store, first) as projection:
            await projection.subscription.caught_up()
        for after in (False, True):
            at, done = 0, False
            while not done:
                at += 1
                old, new = f"sums@{versions}", f"sums@{versions + 1}"
                view = kind == "view"
                definition = sums_view(new) if view else sums_table(new, "sums_new")
                faulty, calls = crashing(store, at, after=after)
                try:
                    await rebuild(faulty, definition, replaces=old, page=15, near=10)
                    done = calls[0] < at
                except _CrashError:
                    crashes += 1
                    await rebuild(store, definition, replaces=old, page=15, near=10)
                await check_swapped(store, definition, old)
                versions += 1
    print(f"S8: {crashes} crashes ({kind}), each resumed")
    assert crashes > 20


async def check_swapped(
    store: Store, definition: ProjectionDefinition[Any, Any], old: str
) -> None:
    retired = await store.checkpoints.load(old)
    assert retired is not None
    assert retired.position == RETIRED
    assert await store.snapshots.load(old) is None
    if isinstance(definition, ViewProjection):
        state, _ = await load_view(store, definition)
        assert state == await folded(store)
    else:
        await check_exact(store)
        assert await tables_of(store) == {"sums"}


@pytest.mark.parametrize("kind", ["view", "table"])
@pytest.mark.timeout(120)
async def test_s8_a_cancel_at_each_page_leaves_nothing(
    database: str, kind: str
) -> None:
    """Cancelled after any number of pages: tables, checkpoint and state are gone."""
    cancelled = 0
    async with await opened(database) as store:
        await fill(store, 60)
        first = sums_view() if kind == "view" else sums_table()
        async with project(store, first) as projection:
            await projection.subscription.caught_up()
        view = kind == "view"
        definition = sums_view("sums@2") if view else sums_table("sums@2", "sums_new")
        for pages in range(1, 6):
            told: list[RebuildProgress] = []

            def leave(
                progress: RebuildProgress,
                told: list[RebuildProgress] = told,
                pages: int = pages,
            ) -> None:
                told.append(progress)
                if len(told) == pages:
                    raise asyncio.CancelledError

            with pytest.raises(asyncio.CancelledError):
                await rebuild(
                    store,
                    definition,
                    replaces="sums@1",
                    page=10,
                    near=1,
                    on_progress=leave,
                )
            await cancel_rebuild(store, definition, replaces="sums@1")
            cancelled += 1
            assert await store.checkpoints.load("sums@2") is None
            assert await store.snapshots.load("sums@2") is None
            if not view:
                assert await tables_of(store) == {"sums"}
                await check_exact(store)
    assert cancelled == 5


# Flights.


def delays(name: str, table: str) -> HandlerProjection[Any]:
    """Keep, for each airline, the departures and their minutes late in a table."""

    async def run(tx: Any, *statements: str) -> None:
        for statement in statements:
            await tx.connection.execute(statement)

    async def handle(tx: Any, events: Sequence[Any]) -> None:
        sums: dict[str, tuple[int, int]] = {}
        for recorded in events:
            count, late = sums.get(recorded.event.carrier, (0, 0))
            sums[recorded.event.carrier] = count + 1, late + recorded.event.delay
        lite = isinstance(tx.connection, SQLiteConnection)
        await tx.connection.executemany(
            f"INSERT INTO {table} VALUES ({'?, ?, ?' if lite else '$1, $2, $3'}) "
            f"ON CONFLICT (carrier) DO UPDATE SET count = {table}.count + "
            f"excluded.count, late = {table}.late + excluded.late",
            [(carrier, *numbers) for carrier, numbers in sorted(sums.items())],
        )

    async def lock(tx: Any) -> None:
        if not isinstance(tx.connection, SQLiteConnection):
            await run(tx, "LOCK TABLE delays IN ACCESS EXCLUSIVE MODE")

    make = f"CREATE TABLE {table} (carrier text PRIMARY KEY, count bigint, late bigint)"
    rename = "DROP TABLE delays", f"ALTER TABLE {table} RENAME TO delays"
    return HandlerProjection(
        name=name,
        handle=handle,
        query=models.Query.of(types=["flight-departed"]),
        setup=lambda tx: run(tx, make),
        lock=lock,
        swap=lambda tx: run(tx, *rename),
    )


@pytest.mark.parametrize(
    "flights",
    [
        pytest.param(WEEK, marks=pytest.mark.timeout(240), id="week"),
        pytest.param(
            YEAR, marks=[pytest.mark.timeout(3600), pytest.mark.soak], id="year"
        ),
    ],
)
async def test_s8_flights_arrive_while_a_model_is_rebuilt(
    database: str, flights: Path
) -> None:
    """While flights arrive, a View and a table are rebuilt; both equal a fresh fold."""
    assert flights.is_file(), f"{flights} is missing: flights beside the repository"
    data = check(flights)
    many = asyncio.Event()

    async def on_rows(rows: int) -> None:
        if rows >= data.rows // 2:
            many.set()

    newer = replace(models.JUDGED, name="demo-punctuality@2")
    async with await opened(database, log.CODEC) as store:
        page = Delivery[Any](page=2000)
        recording = asyncio.create_task(record(store, data, on_rows))
        async with (
            project(store, models.JUDGED, page),
            project(store, delays("delays@1", "delays"), page),
        ):
            await many.wait()
            began = await store.head()
            old = models.PUNCTUALITY
            done = await rebuild(store, newer, replaces=old, page=2000)
            other = delays("delays@2", "delays_new")
            table = await rebuild(store, other, replaces="delays@1", page=2000)
            await recording
        async with (
            project(store, newer, page) as judged,
            project(store, replace(delays("delays@2", "delays")), page) as delayed,
        ):
            await judged.subscription.caught_up()
            await delayed.subscription.caught_up()
            end = await check_flights(store, judged.state)
    print(
        f"S8: rebuilt {done.handled} and {table.handled} events of {data.rows} flights "
        f"while they arrived, swapped at {done.position} and {table.position}"
    )
    assert done.handled > data.rows // 4
    assert end > began, "no flight arrived meanwhile"


async def check_flights(store: EventStore[Any], state: models.Punctuality) -> int:
    """Hold both read models against a fold of the log; give where that ends."""
    fresh, after = models.punctuality.initial, 0
    while True:
        page = await store.read_all(after=after, limit=5000)
        for recorded in page.events:
            fresh = models.punctuality.evolve(fresh, recorded)
        after = page.reached
        if after >= page.head:
            break
    assert state == fresh
    async with store.transaction() as tx:
        found = await fetch(tx.connection, "SELECT carrier, count, late FROM delays")
    assert {carrier: (count, late) for carrier, count, late in found} == {
        carrier: (tally.departures, tally.departure_delay)
        for carrier, tally in fresh[0].items()
        if tally.departures
    }
    return after
