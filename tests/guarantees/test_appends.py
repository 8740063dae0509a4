"""A2 to A6: appends are whole, judged alone, repeatable, and safe to cancel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from evsrc import (
    ANY,
    NO_STREAM,
    Appended,
    Conflict,
    DuplicateEventError,
    NewEvent,
    StreamName,
    Write,
)
from evsrc.ports import EventStore
from evsrc.testing import Fact, Work, cancel_everywhere
from tests.conftest import OpenStore, prefix_of

WRITER = Path(__file__).with_name("writer_process.py")
Store = EventStore[Any]


def facts(*numbers: int) -> list[NewEvent[Any]]:
    return [NewEvent(Fact(n), uuid4()) for n in numbers]


async def test_a2_appends_over_streams_are_seen_whole(store: Store) -> None:
    """Readers never see a part of an append, also when half of them fail midway."""
    used = facts(0)
    await store.append(Write(StreamName("used", "x"), used, NO_STREAM))
    done = False

    async def write(worker: int) -> None:
        for n in range(25):
            number = worker * 1000 + n
            writes = [
                Write(StreamName("whole", str(s)), facts(number), ANY) for s in range(4)
            ]
            await store.append(*writes)
            failing = [
                *writes[:3],
                Write(StreamName("whole", "3"), facts(-1) + used, ANY),
            ]
            renewed = [Write(w.stream, facts(-1), ANY) for w in failing[:3]]
            with pytest.raises(DuplicateEventError):
                await store.append(*renewed, failing[3])
            await asyncio.sleep(0)

    async def read() -> int:
        looks = 0
        while not done:
            page = await store.read_all(limit=100_000)
            seen: dict[int, int] = {}
            for recorded in page.events[1:]:
                seen[recorded.event.n] = seen.get(recorded.event.n, 0) + 1
            assert -1 not in seen
            assert set(seen.values()) <= {4}
            looks += 1
            await asyncio.sleep(0)
        return looks

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.gather(*(write(n) for n in range(4)))
    done = True
    looks = sum(await asyncio.gather(*readers))
    assert len((await store.read_all(limit=100_000)).events) == 1 + 4 * 25 * 4
    print(f"A2: 100 appends, 100 failed ones, {looks} looks, 0 parts seen")


async def test_a3_one_of_a_hundred_tasks_wins(store: Store) -> None:
    """Of 100 tasks that expect one version exactly one wins, ten times over."""
    stream = StreamName("race", "tasks")
    for version in range(10):
        outcomes = await asyncio.gather(
            *(store.append(Write(stream, facts(n), version)) for n in range(100))
        )
        assert sum(isinstance(o, Appended) for o in outcomes) == 1
        assert {o.actual for o in outcomes if isinstance(o, Conflict)} == {version + 1}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "evsrc_back_end", ["sqlite", "postgresql", "postgresql-concurrent"]
)
async def test_a3_one_of_eight_processes_wins(
    evsrc_back_end: str,
    open_store: OpenStore,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Eight processes race for 30 versions of one stream: each has one winner."""
    versions = 30
    database, *more = str(tmp_path / "events.db"), str(versions)
    if evsrc_back_end != "sqlite":
        database = request.getfixturevalue("shared_database")
        ordering = "concurrent" if "concurrent" in evsrc_back_end else "serial"
        more += [prefix_of(tmp_path), ordering]
    async with await open_store():
        pass
    racers = [
        subprocess.Popen(
            [sys.executable, str(WRITER), "race", database, str(n), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(8)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    said = await asyncio.gather(
        *(asyncio.to_thread(racer.communicate, "go\n") for racer in racers)
    )
    assert not any(racer.returncode for racer in racers)
    won = [int(line.split()[1]) for out, _ in said for line in out.splitlines()]
    assert sorted(won) == list(range(versions))
    async with await open_store() as store:
        loaded = await store.load_events(StreamName("race", "one"))
        assert loaded.version == versions
    print(f"A3 {evsrc_back_end}: 8 processes, {versions} versions, {len(won)} winners")


async def test_a4_unknown_outcomes_are_resolved_by_repeating(store: Store) -> None:
    """The caller is cut off around the commit; repeating gives the first positions."""
    repeated = 0
    for n in range(200):
        stream = StreamName("cut", str(n))
        write = Write(stream, facts(1, 2), NO_STREAM)
        appending = asyncio.create_task(store.append(write))
        for _ in range(n % 7):
            await asyncio.sleep(0)
        appending.cancel()
        await asyncio.wait([appending])
        before = (await store.load_events(stream)).version
        again = await store.append(write)
        assert isinstance(again, Appended)
        assert again == (await store.append(write)) or not again.repeated
        repeated += again.repeated
        assert (await store.load_events(stream)).version == 2
        if before == 2:
            assert again.repeated
    print(f"A4: 200 cut, {repeated} had happened, 0 doubled")


async def test_a5_a_commit_of_many_judges_each_alone(store: Store) -> None:
    """Of 200 appends in one flight the wrong ones are refused, the right ones kept."""
    stream = StreamName("alone", "shared")
    taken = facts(0)
    await store.append(Write(stream, taken, NO_STREAM))
    kinds = ["good", "stale", "taken", "follows"]
    writes = {
        "good": lambda n: Write(StreamName("alone", str(n)), facts(n), NO_STREAM),
        "stale": lambda _: Write(stream, facts(-1), NO_STREAM),
        "taken": lambda n: Write(StreamName("alone", f"t{n}"), taken, NO_STREAM),
        "follows": lambda _: Write(stream, facts(-2), ANY),
    }
    outcomes = await asyncio.gather(
        *(store.append(writes[kinds[n % 4]](n)) for n in range(200)),
        return_exceptions=True,
    )
    for n, outcome in enumerate(outcomes):
        match kinds[n % 4]:
            case "stale":
                assert isinstance(outcome, Conflict)
                assert outcome.actual >= 1
            case "taken":
                assert isinstance(outcome, DuplicateEventError)
            case _:
                assert isinstance(outcome, Appended)
                assert not outcome.repeated
    assert len((await store.read_all()).events) == 1 + 100
    assert (await store.load_events(stream)).version == 51
    print("A5: 200 in one flight: 100 recorded, 50 conflicts, 50 duplicates")


async def test_a6_cancelling_at_every_await_leaves_all_or_nothing(store: Store) -> None:
    """An append cancelled at its n-th await, for every n, is there wholly or not."""
    both = (0, 0)

    async def trial(n: int) -> AsyncGenerator[Work, None]:
        nonlocal both
        streams = StreamName("await", str(n)), StreamName("await", f"{n}-second")
        yield store.append(
            Write(streams[0], facts(1, 2), NO_STREAM),
            Write(streams[1], facts(3), NO_STREAM),
        )
        after = Write(StreamName("after", str(n)), facts(1), NO_STREAM)
        assert isinstance(await store.append(after), Appended)
        first, second = [(await store.load_events(each)).version for each in streams]
        both = (first, second)
        assert both in ((0, 0), (2, 1))

    cuts = await cancel_everywhere(trial)
    assert both == (2, 1)
    assert await store.verify() == ()
    print(f"A6: cancelled at each of {cuts} awaits")
