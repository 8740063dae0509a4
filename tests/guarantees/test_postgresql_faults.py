"""A1 to A4 on PostgreSQL: writers killed, servers restarted, connections cut."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import asyncpg
import pytest

from evsrc import (
    ANY,
    NO_STREAM,
    Appended,
    CheckpointError,
    NewEvent,
    SaveCheckpoint,
    StoreBusyError,
    StreamName,
    Write,
    subscribe,
)
from evsrc.core.errors import AppendOutcomeUnknownError
from evsrc.ports import Checkpoint
from evsrc.stores.postgresql import postgresql_store
from evsrc.stores.postgresql.schema import Ordering
from evsrc.testing import CODEC, Fact, start_postgres
from tests.guarantees.proxy import Cut, Proxy, When, proxy_before, some
from tests.guarantees.workload import Store, Tail, Workload, everything, facts

WRITER = Path(__file__).with_name("writer_process.py")
ORDERINGS = get_args(Ordering)
orderings = pytest.mark.parametrize("ordering", ORDERINGS)


def sizes(few: int, many: int) -> Any:
    """Run a test in a small size by default, and in a large one as a soak."""
    soak = [pytest.mark.soak, pytest.mark.timeout(3600)]
    return pytest.mark.parametrize(
        "count",
        [
            pytest.param(few, marks=pytest.mark.timeout(180)),
            pytest.param(many, marks=soak),
        ],
        ids=["few", "many"],
    )


async def open_store(url: str, ordering: Ordering, **options: Any) -> Store:
    return await postgresql_store(
        url, CODEC, prefix=f"f_{ordering}", ordering=ordering, **options
    )


# A1: kill -9 of writers.


class Killed:
    """What writers said before they were killed."""

    def __init__(self) -> None:
        self.recorded: dict[UUID, tuple[str, int]] = {}
        self.asked: dict[UUID, str] = {}

    def hear(self, line: str) -> None:
        kind, stream, *rest = line.split()
        if kind == "asking":
            self.asked |= dict.fromkeys(map(UUID, rest), stream)
            return
        ids = [UUID(id) for id in rest[1:]]
        first = int(rest[0]) - len(ids) + 1
        for version, id in enumerate(ids, first):
            self.recorded[id] = stream, version

    def run_and_kill(
        self, url: str, ordering: Ordering, seed: int, chance: random.Random
    ) -> None:
        """Start two writers and kill -9 each once it has said so many things."""
        writers = [
            subprocess.Popen(
                [
                    *(sys.executable, str(WRITER), "acknowledge", url, f"{seed}{n}"),
                    *("0", f"f_{ordering}", ordering),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            with writer, writer.stdout as stdout:
                said = [stdout.readline() for _ in range(chance.randint(1, 120))]
                writer.kill()
                said += stdout.readlines()
            for line in said:
                if line.endswith("\n"):
                    self.hear(line)


@sizes(10, 100)
@orderings
async def test_a1_acknowledged_appends_survive_kill_9(
    evsrc_postgres_database: str, ordering: Ordering, count: int
) -> None:
    """Kills of writers lose nothing that was acknowledged, and leave no gap."""
    killed, chance = Killed(), random.Random(1)
    async with await open_store(evsrc_postgres_database, ordering) as store:
        for seed in range(0, count, 2):
            killed.run_and_kill(evsrc_postgres_database, ordering, seed, chance)
        unknown = [id for id in killed.asked if id not in killed.recorded]
        before = {id for id, _ in await everything(store)}
        for id in unknown:
            stream = StreamName("kill", killed.asked[id])
            outcome = await store.append(Write(stream, [NewEvent(Fact(0), id)], ANY))
            assert isinstance(outcome, Appended)
            assert outcome.repeated or id not in before
        found = await everything(store)
        places = {id: (place.stream.id, place.version) for id, place in found}
        assert await store.verify() == ()
    lost = [id for id, place in killed.recorded.items() if places.get(id) != place]
    doubled = len(found) - len(places)
    print(
        f"A1 {ordering}: {count} kills, {len(killed.recorded)} acknowledged, "
        f"{len(lost)} lost, {len(unknown)} unknown outcomes retried, {doubled} doubled"
    )
    assert not lost
    assert doubled == 0
    assert places.keys() == killed.asked.keys()
    assert len(unknown) > 0


# Faults of the server while appends, readers and a subscription run.


async def under_load(
    work: Workload,
    elsewhere: Store,
    callers: int,
    break_things: Callable[[], Awaitable[None]],
) -> tuple[str, int]:
    """Append, follow and deliver while things break; check all of it afterwards."""
    tail, stop_calls, done = Tail(), asyncio.Event(), asyncio.Event()
    watch = subscribe(elsewhere, "watch", tail.handle)
    async with watch:
        following = asyncio.create_task(tail.follow(elsewhere, done))
        calling = asyncio.create_task(work.call_until(stop_calls, range(callers)))
        try:
            await break_things()
        finally:
            stop_calls.set()
            await calling
            done.set()
            await following
        await watch.caught_up(timedelta(seconds=20))
    log = await everything(elsewhere)
    assert tail.read == log, "a reader did not see everything once, in order"
    assert tail.handled == log, "a subscription did not, either"
    return await work.check(elsewhere), len(log)


@sizes(6, 60)
async def test_a1_restarts_in_mid_append_lose_nothing(count: int) -> None:
    """`restart -m immediate` under 16 callers: none of them sees it, nothing is lost."""
    with start_postgres() as server:
        for ordering in ORDERINGS:
            async with (
                await open_store(server.url, ordering) as store,
                await open_store(server.url, ordering) as elsewhere,
            ):
                work = Workload(store, seed=2)

                async def restart(work: Workload = work) -> None:
                    for n in range(count // 2):
                        # after the last start, and at any moment of a flight
                        calls = work.acknowledged + work.chance.randint(50, 150)
                        await work.until(calls)
                        if n % 4 == 3:
                            await asyncio.to_thread(server.kill)
                            await asyncio.to_thread(server.start)
                        else:
                            await asyncio.to_thread(server.restart, "immediate")
                    await work.until(work.acknowledged + 200)

                counts, seen = await under_load(work, elsewhere, 16, restart)
            print(
                f"restarts {ordering}: {count // 2} restarts under 16 callers, {counts}, "
                f"{seen} read and {seen} handled in order"
            )


@sizes(30, 600)
@orderings
async def test_a1_terminated_backends_are_not_noticed(
    evsrc_postgres_database: str, ordering: Ordering, count: int
) -> None:
    """Backends terminated at random, also those that listen: nobody sees an error."""
    url, chance = evsrc_postgres_database, random.Random(3)
    admin = await asyncpg.connect(url)
    ended, began = 0, asyncio.get_running_loop().time()
    try:
        async with (
            await open_store(url, ordering) as store,
            await open_store(url, ordering) as elsewhere,
        ):
            work = Workload(store, seed=3)

            async def terminate() -> None:
                nonlocal ended
                while ended < count:
                    await work.until(work.acknowledged + 20)
                    pids = await admin.fetch(
                        "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                        "AND datname = current_database() AND backend_type = $1",
                        "client backend",
                    )
                    pid = chance.choice(pids)[0]
                    ended += await admin.fetchval(
                        "SELECT pg_terminate_backend($1)", pid
                    )

            counts, seen = await under_load(work, elsewhere, 8, terminate)
    finally:
        await admin.close()
    seconds = asyncio.get_running_loop().time() - began
    print(
        f"terminated {ordering}: {ended} backends in {seconds:.0f} s, {counts}, "
        f"{seen} read and {seen} handled in order"
    )


# A4: connections cut at an append.


@asynccontextmanager
async def through_proxy(
    url: str, ordering: Ordering, **options: Any
) -> AsyncIterator[tuple[Store, Proxy]]:
    async with (
        proxy_before(url) as proxy,
        await open_store(proxy.url, ordering, **options) as store,
    ):
        yield store, proxy


async def call_through(proxy: Proxy, work: Workload, callers: int, cuts: int) -> None:
    """Have so many callers append until the proxy has made so many cuts."""
    done = asyncio.Event()
    calling = asyncio.create_task(work.call_until(done, range(callers)))
    while proxy.cuts < cuts:
        await work.until(work.acknowledged + 1)
    done.set()
    await calling


@sizes(50, 500)
@orderings
async def test_a4_connections_cut_at_an_append(
    evsrc_postgres_database: str, ordering: Ordering, count: int
) -> None:
    """Appends whose connection is cut are resolved by themselves, alone and in groups."""
    async with through_proxy(evsrc_postgres_database, ordering) as (store, proxy):
        work = Workload(store, seed=4)
        for callers, cuts in ((1, count // 3), (12, count)):
            proxy.choose = some(random.Random(callers), 0.4)
            await call_through(proxy, work, callers, cuts)
        proxy.choose = lambda: None
        counts = await work.check(store)
        print(f"A4 {ordering}: {proxy.cuts} cuts, {dict(work.kinds)}, {counts}")
    assert work.repeated > 0


@sizes(6, 60)
@orderings
async def test_a4_connections_that_fall_silent(
    evsrc_postgres_database: str, ordering: Ordering, count: int
) -> None:
    """A connection that says nothing any more is given up after `timeout`."""
    short = timedelta(seconds=0.3)
    async with through_proxy(evsrc_postgres_database, ordering, timeout=short) as (
        store,
        proxy,
    ):
        work = Workload(store, seed=5)
        for callers, cuts in ((1, count // 2), (4, count)):
            proxy.choose = some(random.Random(callers), 0.3, silent=True)
            await call_through(proxy, work, callers, cuts)
        proxy.choose = lambda: None
        counts = await work.check(store)
        print(f"A4 {ordering}: {proxy.cuts} connections fell silent, {counts}")


def once(proxy: Proxy, *cuts: Cut | None) -> None:
    """Cut the next appends so; with the last of them the server is out of reach."""
    left = list(cuts)

    def choose() -> Cut | None:
        if not left:
            return None
        cut = left.pop(0)
        proxy.away = not left
        return cut

    proxy.choose = choose


@orderings
async def test_a4_an_outcome_that_stays_unknown_is_called_so(
    evsrc_postgres_database: str, ordering: Ordering
) -> None:
    """While the server stays away the error says unknown; repeating is right then."""
    impatient = timedelta(seconds=0.1)
    happened: Counter[bool] = Counter()
    async with through_proxy(evsrc_postgres_database, ordering, patience=impatient) as (
        store,
        proxy,
    ):
        whens: Any = ("half-way", "sent", "answered")
        for n in range(24):
            first, second = StreamName("gone", str(n)), StreamName("gone", f"{n}-2")
            writes = [
                Write(first, facts(1, 2), NO_STREAM),
                Write(second, facts(3), ANY),
            ]
            moved = SaveCheckpoint(f"gone-{n}", 5, after=0)
            once(proxy, Cut("reset" if n % 2 else "close", whens[n % 3]))
            with pytest.raises(AppendOutcomeUnknownError, match="may be there"):
                await store.append(*writes[: 1 + n % 2], also=[moved])
            proxy.away = False
            again = await store.append(*writes[: 1 + n % 2], also=[moved])
            assert isinstance(again, Appended)
            happened[again.repeated] += 1
            if whens[n % 3] == "answered":
                assert again.repeated
            assert (await store.load_events(first)).version == 2
            checkpoint = await store.checkpoints.load(f"gone-{n}")
            assert checkpoint is not None
            assert checkpoint.position == 5
        once(proxy, Cut("reset", "answered"))
        with pytest.raises(AppendOutcomeUnknownError):
            await store.checkpoints.save(SaveCheckpoint("gone", 7, after=0))
        proxy.away = False
        with pytest.raises(CheckpointError) as raised:  # by whom, nobody can tell
            await store.checkpoints.save(SaveCheckpoint("gone", 7, after=0))
        assert raised.value.actual == 7
        known = StreamName("gone", "known")  # more events have ways of their own
        version = 0
        for n in range(24):
            await store.append(Write(known, facts(1), version))
            once(proxy, Cut("reset" if n % 2 else "close", whens[n % 3]))
            write = Write(known, facts(2) if n < 12 else facts(2, 3), version + 1)
            with pytest.raises(AppendOutcomeUnknownError, match="may be there"):
                await store.append(write)
            proxy.away = False
            again = await store.append(write)
            assert isinstance(again, Appended)
            happened[again.repeated] += 1
            assert again.repeated or whens[n % 3] != "answered"
            version = again.version
        assert (await store.load_events(known)).version == version == 12 * 2 + 12 * 3
        found = await everything(store)
    assert len(found) == len({id for id, _ in found}) == 24 * 2 + 12 + 60
    print(
        f"A4 {ordering}: 48 outcomes unknown, {happened[True]} had happened, 0 doubled"
    )


@orderings
async def test_a4_a_checkpoint_that_moves_while_its_connection_is_cut(
    evsrc_postgres_database: str, ordering: Ordering
) -> None:
    """The move is resolved by itself: one that had happened is known as its own."""
    whens: tuple[When, ...] = ("half-way", "sent", "answered", "heard")
    cuts: list[Cut] = []
    async with through_proxy(evsrc_postgres_database, ordering) as (store, proxy):
        await store.checkpoints.save(SaveCheckpoint("x", 1, after=0))
        proxy.choose = lambda: cuts.pop() if cuts else None
        for n in range(1, 25):
            cuts.append(Cut("reset" if n % 2 else "close", whens[n % 4]))
            await store.checkpoints.save(SaveCheckpoint("x", n + 1, after=n))
            assert await store.checkpoints.load("x") == Checkpoint("x", n + 1)
            with pytest.raises(CheckpointError) as raised:
                await store.checkpoints.save(SaveCheckpoint("x", n + 5, after=n))
            assert raised.value.actual == n + 1
        assert proxy.cuts == 24


@orderings
async def test_a4_a_group_whose_repetition_is_cut_is_unknown_too(
    evsrc_postgres_database: str, ordering: Ordering
) -> None:
    """Nobody is told "nothing was written" after a call whose answer got lost."""
    impatient = timedelta(seconds=0.1)
    async with through_proxy(evsrc_postgres_database, ordering, patience=impatient) as (
        store,
        proxy,
    ):
        writes = [Write(StreamName("g", str(n)), facts(n), ANY) for n in range(5)]
        # written, but not heard; sent again, refused as there already, and cut off
        once(proxy, Cut("reset", "answered"), Cut("close", "heard"))
        with pytest.raises(AppendOutcomeUnknownError):
            await store.append(writes[0])
        proxy.away = False
        again: Any = await asyncio.gather(*map(store.append, writes))
        assert [outcome.repeated for outcome in again] == [True] + [False] * 4
        assert len(await everything(store)) == 5


@orderings
async def test_a4_a_repetition_that_cannot_be_sent_is_unknown_too(
    evsrc_postgres_database: str, ordering: Ordering
) -> None:
    """Nobody is told "nothing was written" after a call whose answer got lost."""
    impatient = timedelta(seconds=0.1)
    async with await open_store(
        evsrc_postgres_database, ordering, patience=impatient
    ) as store:
        server = store.append.__self__.writer.server  # type: ignore[attr-defined]
        lend, calls = server.lend, 0
        trouble: Exception = ConnectionRefusedError()

        @asynccontextmanager
        async def troubled() -> AsyncIterator[Any]:
            nonlocal calls
            calls += 1
            if calls > 2:
                raise trouble
            async with lend() as db:
                yield db
                raise ConnectionResetError

        for n, error in enumerate([trouble, StoreBusyError("all are in use")]):
            calls, trouble = 0, error
            write = Write(StreamName("g", str(n)), facts(n), ANY)
            # written, but not heard; sent again, and refused as there already
            server.lend_again = troubled
            with pytest.raises(AppendOutcomeUnknownError):
                await store.append(write)
            server.lend_again = lend
            again = await store.append(write)
            assert isinstance(again, Appended)
            assert again.repeated


async def test_r1_positions_drawn_in_vain_do_not_end_a_read(
    evsrc_postgres_database: str,
) -> None:
    """Concurrent ordering: what is recorded after many failed appends is read at once."""
    url: Any = evsrc_postgres_database
    admin = await asyncpg.connect(url)
    async with (
        await open_store(url, "concurrent") as store,
        await open_store(url, "concurrent") as elsewhere,
    ):
        await store.append(Write(StreamName("drawn", "x"), facts(1), NO_STREAM))
        for expected in (1500, 0, 10):  # holes before the next event
            await admin.execute(
                "SELECT nextval('f_concurrent_position') FROM generate_series(1, $1)",
                expected,
            )
            await elsewhere.head()
            await store.append(Write(StreamName("drawn", "x"), facts(2), ANY))
            recorded = await store.read_stream(StreamName("drawn", "x"))
            for reader in (store, elsewhere):
                found = await everything(reader)
                assert len(found) == recorded.head
                page = await reader.read_all(limit=1)
                assert len(page.events) == 1
    await admin.close()
