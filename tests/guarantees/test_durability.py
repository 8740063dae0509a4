"""A1 and A8: what was acknowledged stays, and what changed is noticed."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from evsrc import (
    ANY,
    NO_STREAM,
    Appended,
    CorruptionError,
    DeadLetter,
    EvsrcError,
    Fence,
    LeaseLostError,
    Metadata,
    NewEvent,
    Query,
    StreamName,
    Write,
)
from evsrc.ports import EventStore, SaveCheckpoint, SaveDeadLetter
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing import CODEC, Fact, Note

WRITER = Path(__file__).with_name("writer_process.py")
KILLS = 50
CORRUPTIONS = 1000
STREAMS = 30
LETTERS = 20


def run_and_kill(database: Path, seed: int, after: int) -> list[list[str]]:
    """Start a writer, kill -9 it once it has said *after* things; give all it said."""
    with subprocess.Popen(
        [sys.executable, str(WRITER), "acknowledge", str(database), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(after)]
        process.kill()
        said += process.stdout.readlines()
    return [line.split() for line in said if line.endswith("\n")]


@pytest.mark.timeout(240)
async def test_a1_acknowledged_appends_survive_kill_9(tmp_path: Path) -> None:
    """Fifty kills lose nothing that was acknowledged, and leave no gap in a stream."""
    database = tmp_path / "events.db"
    chance = random.Random(1)
    recorded: dict[UUID, tuple[str, int]] = {}
    asked: dict[UUID, str] = {}
    for seed in range(KILLS):
        for kind, stream, *rest in run_and_kill(database, seed, chance.randint(1, 120)):
            if kind == "asking":
                asked |= dict.fromkeys(map(UUID, rest), stream)
            else:
                ids = [UUID(id) for id in rest[1:]]
                first = int(rest[0]) - len(ids) + 1
                for version, id in enumerate(ids, first):
                    recorded[id] = stream, version
    async with await sqlite_store(database, CODEC) as store:
        found = await everything(store)
        lost = [id for id, place in recorded.items() if found.get(id) != place]
        for n in range(8):
            page = await store.read_stream(StreamName("kill", str(n)))
            assert [r.version for r in page.events] == list(range(1, page.head + 1))
        assert await store.verify() == ()
        unknown = [id for id in asked if id not in recorded]
        doubled = await retry(store, asked, unknown, found)
    print(
        f"A1: {KILLS} kills, {len(recorded)} acknowledged, {len(lost)} lost, "
        f"{len(unknown)} unknown outcomes retried, {doubled} doubled"
    )
    assert len(recorded) > KILLS
    assert not lost
    assert doubled == 0


async def everything(store: EventStore[Any]) -> dict[UUID, tuple[str, int]]:
    found: dict[UUID, tuple[str, int]] = {}
    after = 0
    while (page := await store.read_all(after=after)).events:
        found |= {r.id: (r.stream.id, r.version) for r in page.events}
        after = page.reached
    return found


async def retry(
    store: EventStore[Any],
    asked: dict[UUID, str],
    unknown: list[UUID],
    found: dict[UUID, tuple[str, int]],
) -> int:
    """Repeat appends whose outcome nobody knows; count events that are there twice."""
    for id in unknown:
        new = NewEvent(Fact(0), id)
        outcome = await store.append(Write(StreamName("kill", asked[id]), [new], ANY))
        assert isinstance(outcome, Appended)
        assert outcome.repeated == (id in found)
    return await store.head() - len(await everything(store))


async def fill(store: EventStore[Any]) -> dict[str, Any]:
    """Write what the corruption test reads back; give the truth."""
    for n in range(STREAMS):
        metadata = Metadata(actor_id=f"actor-{n}")
        events = [
            NewEvent(Fact(i, f"text {n}-{i} " * 3), uuid4(), metadata)
            for i in range(20)
        ]
        events.append(NewEvent(Note(f"note {n}"), uuid4()))
        await store.append(Write(StreamName("rot", str(n)), events, NO_STREAM))
    await store.checkpoints.save(SaveCheckpoint("reader", 17))
    for n in range(LETTERS):
        await store.dead_letters.save(SaveDeadLetter(letter(n)))
        await store.leases.acquire(f"lease {n}", f"owner {n}", timedelta(days=999))
    return await read_everything(store)


def letter(n: int) -> DeadLetter:
    return DeadLetter(
        subscription="reader",
        event_id=UUID(int=n),
        type="fact",
        data=b'{"n":%d}' % n * 9,
        error=f"ValueError: {n}",
        stacktrace="line\n" * n,
        attempts=n,
        first_failed_at=datetime.fromtimestamp(n, UTC),
        last_failed_at=datetime.fromtimestamp(2 * n, UTC),
        position=n,
    )


async def read_everything(store: EventStore[Any]) -> dict[str, Any]:
    checkpoint = await store.checkpoints.load("reader")
    truth: dict[str, Any] = {"log": [], "head": await store.head(), "at": checkpoint}
    after = 0
    while True:
        page = await store.read_all(after=after, limit=100)
        truth["log"] += [
            (r.event, r.id, r.stream, r.version, r.position, r.metadata, r.recorded_at)
            for r in page.events
        ]
        if page.reached >= page.head:
            break
        after = page.reached
    for n in range(STREAMS):
        stream = StreamName("rot", str(n))
        truth[f"load {n}"] = tuple((await store.load_events(stream)).events)
        page = await store.read_stream(stream, backward=True)
        truth[f"read {n}"] = [(r.event, r.id, r.version) for r in page.events]
    truth["letters"] = await store.dead_letters.list()
    for n in range(LETTERS):
        theirs = await store.leases.acquire(f"lease {n}", "thief", timedelta(0))
        truth[f"lease {n}"] = theirs, await is_valid(store, Fence(f"lease {n}", 1))
    return truth


@pytest.mark.timeout(300)
async def test_a8_changed_bytes_are_noticed(tmp_path: Path) -> None:
    """A thousand times sixteen changed bytes: no read returns what was not written."""
    original = tmp_path / "original.db"
    async with await sqlite_store(original, CODEC) as store:
        truth = await fill(store)
    sound, rows = original.read_bytes(), rows_of(original)
    chance = random.Random(8)
    counts = {"raised": 0, "reported": 0, "unused space": 0, "silent": 0}
    for _ in range(CORRUPTIONS):
        damaged = bytearray(sound)
        at = chance.randrange(len(sound) - 16)
        damaged[at : at + 16] = chance.randbytes(16)
        outcome = await outcome_of(bytes(damaged), tmp_path, truth)
        if outcome == "unused space" and rows_of(tmp_path / "damaged.db") != rows:
            outcome = "silent"
        counts[outcome] += 1
    print(f"A8: {CORRUPTIONS} corruptions: {counts}")
    assert counts["silent"] == 0
    assert counts["raised"] + counts["reported"] > CORRUPTIONS // 2


async def is_valid(store: EventStore[Any], fence: Fence) -> bool:
    try:
        await store.append(also=[fence])
    except LeaseLostError:
        return False
    return True


def rows_of(path: Path) -> list[list[Any]]:
    """Give every row of every table, without evsrc."""
    with closing(sqlite3.connect(path)) as db:
        tables = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        return [db.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables]


async def outcome_of(damaged: bytes, folder: Path, truth: dict[str, Any]) -> str:
    """Read a damaged file as a user would, and say how that went."""
    path = folder / "damaged.db"
    path.write_bytes(damaged)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    try:
        store = await sqlite_store(path, CODEC)
    except EvsrcError:
        return "raised"
    async with store:
        try:
            read = await read_everything(store)
        except EvsrcError:
            return "raised"
        if read != truth:
            return "silent"
        return "reported" if await store.verify() else "unused space"


async def test_a8_filtered_reads_are_checked_by_verify(tmp_path: Path) -> None:
    """A changed type or category hides no event from `verify`, and shows none."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        await fill(store)
    for column, wrong in (
        ("type", Query.of(types=["note"])),
        ("category", Query.of(categories=["fact"])),
    ):
        with sqlite3.connect(path) as db:
            db.execute("DROP TRIGGER IF EXISTS evsrc_event_is_a_fact_update")
            db.execute(
                f"UPDATE evsrc_event SET {column} = {column} + 1 WHERE position = 3"
            )
        db.close()
        async with await sqlite_store(path, CODEC) as store:
            assert await store.verify() != ()
            page = await store.read_all(Query.of(types=["fact"]), limit=2)
            assert [r.position for r in page.events] == [1, 2]
            with pytest.raises(CorruptionError, match="searched"):
                await store.read_all(wrong)
        with sqlite3.connect(path) as db:
            db.execute(
                f"UPDATE evsrc_event SET {column} = {column} - 1 WHERE position = 3"
            )
        db.close()


SWAP = ("version = -2 WHERE position = 2", "version = 2 WHERE position = 3")


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ((*SWAP, "version = 3 WHERE position = 2"), True),
        (("at = at + 1 WHERE position = 2",), False),
    ],
    ids=["order", "time"],
)
async def test_a8_columns_that_repeat_an_event_are_checked(
    damage: tuple[str, ...], read: bool, tmp_path: Path
) -> None:
    """A stream is not read in another order; what only people look at, `verify` checks."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        await fill(store)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER evsrc_event_is_a_fact_update")
        for change in damage:
            db.execute(f"UPDATE evsrc_event SET {change}")
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        assert await store.verify() != ()
        for backward in (False, True) if read else ():
            with pytest.raises(CorruptionError, match="'rot-0' is damaged at"):
                await store.read_stream(StreamName("rot", "0"), backward=backward)


async def test_a8_damage_of_one_stream_leaves_the_others_alone(tmp_path: Path) -> None:
    """Appends that share a commit with one to a damaged stream are recorded."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        await fill(store)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE evsrc_stream SET version = version + 1 WHERE id = '7'")
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        writes = [
            Write(StreamName("rot", str(n)), [NewEvent(Fact(n), uuid4())], ANY)
            for n in range(STREAMS)
        ]
        outcomes = await asyncio.gather(
            *map(store.append, writes), return_exceptions=True
        )
        damaged = [n for n, o in enumerate(outcomes) if isinstance(o, CorruptionError)]
        assert damaged == [7]
        assert sum(isinstance(o, Appended) for o in outcomes) == STREAMS - 1
