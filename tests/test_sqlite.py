"""What is particular to the SQLite store: the file, its views, threads, commits."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from evsrc import (
    ANY,
    NO_STREAM,
    AppendCondition,
    Conflict,
    CorruptionError,
    DeadLetter,
    DuplicateEventError,
    EvsrcError,
    Fence,
    Metadata,
    NewEvent,
    Query,
    SchemaError,
    StoreBusyError,
    StreamName,
    Write,
    sqlite_store,
)
from evsrc.ports import Appended, EventStore, SaveCheckpoint, SaveDeadLetter
from evsrc.stores.rows import number_crc
from evsrc.stores.sqlite import reader, writer
from evsrc.stores.sqlite import store as store_module
from evsrc.stores.sqlite.schema import migrations, recognise, statements
from evsrc.testing import CODEC, Fact, Tagged
from tests.one_more import CASES, HERE, NEW, THERE, USED, facts

STREAM = StreamName("s", "1")


async def test_people_can_read_the_file(tmp_path: Path) -> None:
    """The views show events, streams and checkpoints as text, JSON and ISO times."""
    path = tmp_path / "events.db"
    new = NewEvent(Fact(1, "é"), uuid4(), Metadata(actor_id="ann"))
    tagged = [NewEvent(Tagged(1, ("b", "a")), uuid4())]
    letter = DeadLetter(
        subscription="reader",
        event_id=new.id,
        type="fact",
        data=b'{"n":1}',
        error="ValueError: no",
        attempts=2,
        first_failed_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        last_failed_at=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
        stream=STREAM,
        position=1,
    )
    async with await sqlite_store(path, CODEC) as store:
        await store.append(Write(STREAM, [new], NO_STREAM))
        await store.checkpoints.save(SaveCheckpoint("reader", 1))
        await store.dead_letters.save(SaveDeadLetter(letter))
        lease = await store.leases.acquire("reader", "me", timedelta(minutes=1))
        assert lease is not None
        recorded = (await store.read_all()).events[0]
        await store.append(Write(STREAM, tagged, 1))
    with closing(sqlite3.connect(path)) as db:
        (shown,) = db.execute("SELECT tags, metadata FROM events WHERE tags NOT NULL")
        assert shown == ('["a","b"]', None)
        db.row_factory = sqlite3.Row
        (event,) = db.execute("SELECT * FROM events WHERE tags IS NULL").fetchall()
        assert dict(event) == {
            "position": 1,
            "category": "s",
            "stream_id": "1",
            "version": 1,
            "type": "fact",
            "data": '{"n":1,"text":"é"}',
            "metadata": '{"actor_id":"ann"}',
            "tags": None,
            "recorded_at": recorded.recorded_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "event_id": str(new.id),
        }
        asked = "SELECT json_extract(data, '$.n') FROM events"
        assert db.execute(asked).fetchone()[0] == 1
        (stream,) = db.execute("SELECT * FROM streams").fetchall()
        assert tuple(stream) == ("s", "1", 2)
        (checkpoint,) = db.execute("SELECT name, position FROM checkpoints").fetchall()
        assert tuple(checkpoint) == ("reader", 1)
        (parked,) = db.execute("SELECT * FROM dead_letters").fetchall()
        assert dict(parked) == {
            "subscription": "reader",
            "position": 1,
            "category": "s",
            "stream_id": "1",
            "type": "fact",
            "data": '{"n":1}',
            "error": "ValueError: no",
            "stacktrace": None,
            "attempts": 2,
            "status": "failed",
            "first_failed_at": "2026-01-02T03:04:05Z",
            "last_failed_at": "2026-01-02T03:04:06Z",
            "resolved_at": None,
            "resolved_by": None,
            "event_id": str(new.id),
        }
        (leased,) = db.execute("SELECT * FROM leases").fetchall()
        end = lease.until.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert tuple(leased) == ("reader", "me", 1, end)
        with pytest.raises(sqlite3.OperationalError, match="cannot modify"):
            db.execute("DELETE FROM events")


async def test_facts_cannot_be_changed_with_sql(tmp_path: Path) -> None:
    """The table itself refuses updates and deletions."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        await store.append(Write(STREAM, facts(1), ANY))
    with closing(sqlite3.connect(path)) as db:
        for statement in (
            "UPDATE evsrc_event SET version = 2",
            "DELETE FROM evsrc_event",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="events are facts"):
                db.execute(statement)


def test_migrations_are_what_was_released() -> None:
    """A released migration never changes: this is its text, by checksum."""
    from zlib import crc32

    released = {1: 4195413973, 2: 4146623288, 3: 1753711281}
    found = {version: crc32(text.encode()) for version, text in migrations().items()}
    assert found == released
    assert [statement.count(";") for statement in statements("a;\nb;\n")] == [1, 1]


async def test_a_file_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    """Its events stay, and the tables that came later are there."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        await store.append(Write(STREAM, facts(1), NO_STREAM))
    with closing(sqlite3.connect(path)) as db:
        made = "SELECT type, name FROM sqlite_master WHERE tbl_name LIKE ?"
        for name in ("dead_letter", "lease", "tag"):
            for kind, found in db.execute(made, (f"%{name}%",)).fetchall():
                if kind in ("table", "view"):
                    db.execute(f"DROP {kind} {found}")
        db.execute("DELETE FROM evsrc_schema WHERE version > 1")
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        assert (await store.load_events(STREAM)).version == 1
        assert await store.leases.acquire("x", "me", timedelta(0)) is not None
        assert await store.dead_letters.list() == ()
        assert await store.verify() == ()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE evsrc_dead_letter SET status = 'resolved'",
        "UPDATE evsrc_dead_letter SET first_failed_at = first_failed_at + 1",
        "UPDATE evsrc_dead_letter SET data = x'00'",
        "UPDATE evsrc_dead_letter SET error = CAST(x'ff' AS TEXT)",
        "UPDATE evsrc_lease SET token = token + 1",
        "UPDATE evsrc_lease SET owner = 'me'",
        "UPDATE evsrc_lease SET until = 0",
    ],
)
async def test_damaged_letters_and_leases_are_noticed(
    damage: str, tmp_path: Path
) -> None:
    """A changed row is refused by whoever needs it, and reported by `verify`."""
    path = tmp_path / "events.db"
    at, ttl = datetime(2026, 1, 1, tzinfo=UTC), timedelta(minutes=1)
    letter = DeadLetter(
        subscription="reader",
        event_id=UUID(int=1),
        type="fact",
        data=b"{}",
        error="ValueError: no",
        attempts=2,
        first_failed_at=at,
        last_failed_at=at,
    )
    async with await sqlite_store(path, CODEC) as store:
        await store.dead_letters.save(SaveDeadLetter(letter))
        await store.leases.acquire("x", "you", ttl)
    with closing(sqlite3.connect(path)) as db:
        db.execute(damage)
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        assert len(await store.verify()) == 1
        calls: list[Callable[[], Awaitable[object]]]
        if "letter" in damage:
            calls = [store.dead_letters.list, lambda: store.dead_letters.delete(letter)]
        else:
            calls = [
                lambda: store.leases.acquire("x", "me", ttl),
                lambda: store.append(also=[Fence("x", 1)]),
            ]
        for call in calls:
            with pytest.raises(CorruptionError, match="damaged"):
                await call()
        await store.append(Write(STREAM, facts(1), ANY))  # others are not in it


async def test_many_processes_may_start_at_once(tmp_path: Path) -> None:
    """Of several that open a new file together one migrates; all work."""
    path = tmp_path / "events.db"
    stores = await asyncio.gather(*(sqlite_store(path, CODEC) for _ in range(6)))
    for n, store in enumerate(stores):
        await store.append(Write(StreamName("p", str(n)), facts(n), NO_STREAM))
    for store in stores:
        assert await store.head() == 6
        await store.close()


async def test_those_who_wait_do_not_wake_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of eight looks for other processes' events a few times a second, no more."""
    looks: list[int] = []
    head = reader.Reader.head

    def counted(self: reader.Reader[Any]) -> int:
        looks.append(found := head(self))
        return found

    async with await sqlite_store(tmp_path / "events.db", CODEC) as store:
        monkeypatch.setattr(reader.Reader, "head", counted)
        wait = timedelta(milliseconds=500)
        await asyncio.gather(*(store.changed(0, timeout=wait) for _ in range(8)))
    assert 8 * 1 <= len(looks) <= 8 * 4


async def test_a_new_file_that_another_process_writes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens it goes on when the other has written, and says so if that is late."""
    path = tmp_path / "events.db"
    waits: list[float] = []
    with closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError, match="locked by another process for 0 s"):
            await sqlite_store(path, CODEC, busy_timeout=timedelta(0))

        def finish(seconds: float) -> None:
            waits.append(seconds)
            other.execute("COMMIT")

        monkeypatch.setattr(time, "sleep", finish)
        async with await sqlite_store(path, CODEC) as store:
            await store.append(Write(STREAM, facts(1), NO_STREAM))
    assert len(waits) == 1


@pytest.mark.parametrize(("level", "number"), [("FULL", 2), ("NORMAL", 1)])
async def test_durability_is_what_was_asked_for(
    tmp_path: Path, level: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing connection is in WAL mode at the chosen level; FULL is the default."""
    writers: list[Any] = []
    made = writer.Writer

    def remember(db: Any, **options: Any) -> Any:
        writers.append(db)
        return made(db, **options)

    monkeypatch.setattr(store_module, "Writer", remember)
    monkeypatch.setattr(sqlite3, "connect", unchecked(sqlite3.connect))
    options = {} if level == "FULL" else {"synchronous": level}
    async with await sqlite_store(tmp_path / "events.db", CODEC, **options):
        (db,) = writers
        assert db.execute("PRAGMA synchronous").fetchone()[0] == number
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


async def test_the_facade_passes_durability_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SQLiteEventStore(synchronous=...)` is the core's option under its own name."""
    from evsrc import SQLiteEventStore

    asked: list[Any] = []
    opened = store_module.sqlite_store

    async def remember(*args: Any, **options: Any) -> Any:
        asked.append(options["synchronous"])
        return await opened(*args, **options)

    monkeypatch.setattr("evsrc.stores.sqlite.sqlite_store", remember)
    for level in ("FULL", "NORMAL"):
        chosen: Any = {} if level == "FULL" else {"synchronous": level}
        async with SQLiteEventStore(str(tmp_path / f"{level}.db"), **chosen) as store:
            assert await store.get_global_position() == 0
    assert asked == ["FULL", "NORMAL"]
    wrong: Any = "OFF"
    with pytest.raises(ValueError, match="FULL or NORMAL"):
        await SQLiteEventStore(":memory:", synchronous=wrong).initialize()


def unchecked(connect: Any) -> Any:
    return lambda *args, **options: connect(*args, **options, check_same_thread=False)


async def commits_of(path: Path, work: Any) -> int:
    """Count the commits that *work* makes, seen from another connection."""
    commits = 0
    with closing(sqlite3.connect(path)) as db:
        seen = db.execute("PRAGMA data_version").fetchone()[0]
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.sleep(0)
            now = db.execute("PRAGMA data_version").fetchone()[0]
            commits += now != seen
            seen = now
        await task
    return commits


async def test_waiting_appends_share_a_commit(tmp_path: Path) -> None:
    """Sixty appends at once take a few transactions; sixty with `largest_commit=1`."""
    counts = {}
    for largest in (500, 1):
        path = tmp_path / f"{largest}.db"
        async with await sqlite_store(path, CODEC, largest_commit=largest) as store:
            work = asyncio.gather(
                *(
                    store.append(Write(StreamName("g", str(n)), facts(n), ANY))
                    for n in range(60)
                )
            )
            counts[largest] = await commits_of(path, work)
            assert await store.head() == 60
    assert counts[500] <= 3
    assert counts[1] > 20


async def test_a_refused_append_commits_nothing(tmp_path: Path) -> None:
    """A transaction moves the log's head first; with nothing to write it is undone."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        first = Write(STREAM, facts(1), 0)
        for _ in range(2):  # the first one looks where the head is, the second knows
            await store.append(Write(StreamName("t", "2"), facts(1), ANY))

        async def refused() -> None:
            await asyncio.gather(
                *(store.append(Write(STREAM, facts(n), 7)) for n in range(3)),
                store.append(Write(STREAM, facts(3), 7)),
            )
            assert isinstance(await store.append(Write(STREAM, facts(1), 7)), Conflict)

        assert await commits_of(path, refused()) == 0
        assert await store.head() == 2
        done, conflict = await asyncio.gather(
            store.append(first), store.append(Write(STREAM, facts(2, 3), 0))
        )
        assert isinstance(done, Appended)
        assert isinstance(conflict, Conflict)  # its two events have no positions
        assert await commits_of(path, store.append(first)) == 0  # repeated
        assert await store.head() == 3
        assert await store.verify() == ()


async def test_reads_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    """While another process holds the write lock, every kind of read goes on."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        await store.append(Write(STREAM, facts(1), ANY))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO evsrc_name VALUES (99, 'uncommitted', 0)")
            appending = asyncio.create_task(store.append(Write(STREAM, facts(2), ANY)))
            await asyncio.sleep(0)
            assert await store.head() == 1
            assert (await store.load_events(STREAM)).version == 1
            assert len((await store.read_all()).events) == 1
            assert not appending.done()
            other.execute("ROLLBACK")
        assert isinstance(await appending, Appended)
        assert await store.head() == 2


async def test_only_the_writer_checkpoints_the_wal(tmp_path: Path) -> None:
    """The reading connection cannot write, so it cannot checkpoint either."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        await store.append(Write(STREAM, facts(1), ANY))
        read_all: Any = store.read_all
        reading = read_all.__self__.reading.db
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await reading.execute("DELETE FROM evsrc_checkpoint")
        cursor = await reading.execute("PRAGMA wal_autocheckpoint")
        assert await cursor.fetchone() == (0,)
        await cursor.close()


@pytest.mark.parametrize("way", ["append", "in_a_transaction", "save", "either"])
async def test_several_writers_on_an_old_library_are_told(
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a library that has the WAL-reset bug a second writer is noticed, once."""

    async def append(store: EventStore[Any]) -> None:
        await store.append(Write(STREAM, facts(1), ANY))

    async def in_a_transaction(store: EventStore[Any]) -> None:
        async with store.transaction() as tx:
            await tx.append(Write(STREAM, facts(1), ANY))

    async def save(store: EventStore[Any]) -> None:
        await store.checkpoints.save(SaveCheckpoint("p", 1))

    ways: Any = [append, in_a_transaction, save]
    one_way = {each.__name__: each for each in ways}.get(way)
    path = tmp_path / "events.db"
    caplog.set_level(logging.WARNING, "evsrc")
    monkeypatch.setattr(writer, "_LOOK", 0.0)
    for safe_since, warnings in (((99, 0, 0), 1), ((3, 0, 0), 0)):
        monkeypatch.setattr(store_module, "_SAFE_WAL", safe_since)
        caplog.clear()
        async with (
            await sqlite_store(path, CODEC) as one,
            await sqlite_store(path, CODEC) as two,
        ):
            for store in (one, one, one, two, one, two, one):
                await (one_way or (append if store is one else save))(store)
        told = [r for r in caplog.records if "several connections write" in r.message]
        assert len(told) == 2 * warnings  # one by each of the two stores


async def test_two_processes_see_each_other(tmp_path: Path) -> None:
    """What one store appends, another one on the file reads, conflicts with, waits for."""
    from datetime import timedelta

    path = tmp_path / "events.db"
    async with (
        await sqlite_store(path, CODEC) as one,
        await sqlite_store(path, CODEC) as two,
    ):
        waiting = asyncio.create_task(two.changed(0, timeout=timedelta(seconds=20)))
        await one.append(Write(STREAM, facts(1), 0))
        await asyncio.wait_for(waiting, 10)
        assert (await two.load_events(STREAM)).version == 1
        new_type = await two.append(Write(StreamName("new", "1"), facts(2), 0))
        assert isinstance(new_type, Appended)
        assert [r.event.n for r in (await one.read_all()).events] == [1, 2]


async def test_what_others_append_is_known_to_the_next_append(tmp_path: Path) -> None:
    """Stores that take turns on one file judge each append on what is there."""
    path = tmp_path / "events.db"
    async with (
        await sqlite_store(path, CODEC) as one,
        await sqlite_store(path, CODEC) as two,
    ):
        for version in range(0, 12, 3):
            for store, expected in ((one, 0), (two, 1), (two, 2)):
                write = Write(STREAM, facts(1), version + expected)
                done = await store.append(write)
                assert isinstance(done, Appended)
                assert done.position == done.version == version + expected + 1
            late = await one.append(Write(STREAM, facts(1), version + 1))
            assert late == Conflict(STREAM, version + 1, version + 3)
        for n in (12, 14):
            async with two.transaction() as tx:
                assert isinstance(await tx.append(Write(STREAM, facts(1), n)), Appended)
            assert isinstance(
                await one.append(Write(STREAM, facts(1), n + 1)), Appended
            )
        assert await one.verify() == ()


def owner_of(store: EventStore[Any]) -> Any:
    """Give what a store's functions are methods of."""
    append: Any = store.append
    return append.__self__


async def statements_of(store: EventStore[Any], *writes: Write[Any], also: Any) -> Any:
    """Append; give the verdict, and the statements of the store that it took."""
    said: list[str] = []
    writing, db = owner_of(store).writing, owner_of(store).writer.db
    await writing.run(lambda: db.set_trace_callback(said.append))
    try:
        done = await store.append(*writes, also=also)
    except DuplicateEventError as error:
        done = error
    await writing.run(lambda: db.set_trace_callback(None))
    return done, list(dict.fromkeys(said))  # a trigger's steps repeat its statement


@pytest.mark.parametrize(("writes", "also", "alone", "outcome"), CASES)
async def test_one_more_event_is_one_statement(
    writes: list[Write[Any]], also: Any, alone: bool, outcome: Any, tmp_path: Path
) -> None:
    """Of a stream that is known; what is more than that takes a transaction."""
    async with await sqlite_store(tmp_path / "events.db", CODEC) as store:
        await store.append(Write(THERE, USED, 0))
        for version in range(3):
            await store.append(Write(HERE, facts(version), version))
        await store.append(Write(HERE, [NewEvent(Tagged(3), uuid4())], 3))
        await store.append(Write(NEW, facts(1), 7))  # known not to be there
        await store.append(Write(HERE, facts(1), 7))
        hour = timedelta(hours=1)
        waiting = asyncio.create_task(store.changed(5, timeout=hour))
        await asyncio.sleep(0)
        done, said = await statements_of(store, *writes, also=also)
        assert isinstance(done, outcome)
        assert (len(said) == 1) == alone, said
        tried = "INTO evsrc_append_one" in said[0]
        assert tried == (alone or any(write.events is USED for write in writes))
        if alone:
            found = await waiting
            assert found is not None
            assert (found.page.events[0].version, found.page.reached) == (
                done.version,
                6,
            )
        waiting.cancel()
        assert await store.verify() == ()
        added = sum(len(write.events) for write in writes)
        fresh = isinstance(done, Appended) and not done.repeated
        assert await store.head() == 5 + fresh * added
        (last,) = (await store.read_stream(HERE, backward=True, limit=1)).events
        done = await store.append(Write(HERE, facts(9), last.version))
        assert isinstance(done, Appended)
        assert await store.verify() == ()


async def test_writers_that_take_turns_do_not_try_it(tmp_path: Path) -> None:
    """One that finds the log elsewhere looks where it is, until it is alone again."""
    path, heads = tmp_path / "events.db", iter(range(1, 100))
    versions = {HERE: iter(range(100)), THERE: iter(range(100))}

    async def tries(store: EventStore[Any], stream: StreamName) -> list[bool]:
        write = Write(stream, facts(1), next(versions[stream]))
        done, said = await statements_of(store, write, also=())
        assert isinstance(done, Appended)
        assert done.position == next(heads)
        return ["INTO evsrc_append_one" in said[0], len(said) == 1]

    async with (
        await sqlite_store(path, CODEC) as one,
        await sqlite_store(path, CODEC) as two,
    ):
        assert [await tries(one, HERE) for _ in range(4)][2:] == [[True, True]] * 2
        assert await tries(two, THERE) == [False, False]
        assert await tries(one, HERE) == [True, False]  # in vain
        for _ in range(3):
            assert await tries(two, THERE) == [False, False]
            assert await tries(one, HERE) == [False, False]
        assert [await tries(one, HERE) for _ in range(3)][1:] == [[True, True]] * 2
        assert await tries(two, HERE) == [False, False]
        version = next(versions[HERE])
        behind = Write(HERE, facts(1), version - 1)
        assert await one.append(behind) == Conflict(HERE, version - 1, version)
        assert await one.verify() == ()


@pytest.mark.parametrize("damage", ["stream SET version = 3", "log SET head = 3"])
async def test_what_is_not_as_it_was_left_is_looked_at(
    damage: str, tmp_path: Path
) -> None:
    """What another program has done to a row is noticed; nothing is written."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        for version in range(4):
            await store.append(Write(HERE, facts(version), version))
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(f"UPDATE evsrc_{damage}")
        with pytest.raises(CorruptionError):
            await store.append(Write(HERE, facts(4), 4))
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT max(position) FROM evsrc_event").fetchone() == (
                4,
            )


@pytest.mark.parametrize(
    ("when", "what", "early"),
    [
        ("BEFORE", "SELECT RAISE(FAIL, 'no') WHERE new.version > 4", True),
        ("AFTER", "SELECT RAISE(FAIL, 'no') WHERE new.version > 4", True),
        ("AFTER", "INSERT OR FAIL INTO outbox VALUES (new.version / 5)", True),
        ("AFTER", "INSERT OR FAIL INTO outbox VALUES (new.version / 5)", False),
        ("AFTER", "SELECT RAISE(ABORT, 'no') WHERE new.version > 4", False),
    ],
)
async def test_a_trigger_that_refuses_an_event_leaves_nothing_of_it(
    when: str, what: str, early: bool, tmp_path: Path
) -> None:
    """Also if it keeps what was done before; that needs a trigger there from the start."""
    path = tmp_path / "events.db"
    await (await sqlite_store(path, CODEC)).close()

    def refuse() -> None:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE outbox (n CHECK (n < 1))")
            db.execute(
                f"CREATE TRIGGER refuse {when} INSERT ON evsrc_event BEGIN {what}; END"
            )

    if early:
        refuse()
    async with await sqlite_store(path, CODEC) as store:
        for version in range(4):
            await store.append(Write(HERE, facts(version), version))
        if not early:
            refuse()
        for _ in range(2):
            with pytest.raises(EvsrcError):
                await store.append(Write(HERE, facts(4), 4))
            assert await store.head() == 4
            assert await store.verify() == ()
        assert isinstance(await store.append(Write(THERE, facts(1), 0)), Appended)
        assert await store.verify() == ()


def test_a_library_that_cuts_bytes_is_refused(tmp_path: Path) -> None:
    """SQLite 3.36 ends what group_concat gives at the first zero byte."""

    class Cuts:
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def step(self, part: bytes, _: str) -> None:
            self.parts.append(part)

        def finalize(self) -> str:
            return b"".join(self.parts).split(b"\0")[0].decode()

    with closing(sqlite3.connect(":memory:")) as db:
        assert recognise(db, "events.db") == 0
        new: Any = db.create_aggregate
        new("group_concat", 2, Cuts)
        with pytest.raises(SchemaError, match="at a zero byte"):
            recognise(db, "events.db")


async def test_a_failed_append_changes_nothing_that_is_known(
    store: EventStore[Any],
) -> None:
    """What a transaction that was undone has seen and counted is not built upon."""
    used, elsewhere = facts(1), StreamName("else", "where")
    await store.append(Write(STREAM, used, 0))
    await store.append(Write(elsewhere, facts(2), 0))
    with pytest.raises(DuplicateEventError):
        await store.append(Write(STREAM, facts(3), 1), Write(elsewhere, used, 1))
    done = await store.append(Write(STREAM, facts(4), 1))
    assert isinstance(done, Appended)
    assert done.version == 2


async def test_a_stream_that_was_only_asked_for_keeps_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict on a stream that is not there leaves its key to others."""
    monkeypatch.setattr(writer, "stream_key", lambda *_: 7)
    first, second, between = (StreamName(c, "1") for c in ("first", "second", "third"))
    async with await sqlite_store(tmp_path / "events.db", CODEC) as store:
        refused, _ = await asyncio.gather(
            store.append(Write(first, facts(1), 5)),
            store.append(Write(between, facts(0), 0)),
        )
        assert refused == Conflict(first, 5, 0)
        assert (await store.load_events(between)).version == 1
        for stream, n in ((second, 2), (first, 3), (second, 4), (first, 5)):
            await store.append(Write(stream, facts(n), ANY))
        both = [Write(StreamName("both", n), facts(9), 0) for n in "ab"]
        await store.append(*both, Write(both[1].stream, facts(8), 1))
        pair = (both[0].stream, [9]), (both[1].stream, [9, 8])
        written = (between, [0]), (first, [3, 5]), (second, [2, 4]), *pair
        for stream, numbers in written:
            loaded = await store.load_events(stream)
            assert [event.n for event in loaded.events] == numbers
        assert await store.verify() == ()


async def test_streams_with_one_hash_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should two names ever have one key, each stream keeps its own events."""
    monkeypatch.setattr(writer, "stream_key", lambda *_: 7)
    path = tmp_path / "events.db"
    names = [StreamName("c", str(n)) for n in range(4)]
    async with await sqlite_store(path, CODEC) as store:
        together = [
            Write(name, facts(n), NO_STREAM) for n, name in enumerate(names[:2])
        ]
        await store.append(*together)
        await asyncio.gather(
            *(
                store.append(Write(name, facts(n), NO_STREAM))
                for n, name in enumerate(names[2:], 2)
            )
        )
        for n, name in enumerate(names):
            assert [e.n for e in (await store.load_events(name)).events] == [n]
            await store.append(Write(name, facts(n), 1))
        assert await store.verify() == ()
        assert {r.stream for r in (await store.read_all()).events} == set(names)


async def test_filtered_reads_look_at_a_window_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rare type is found however far away, in steps that each say how far they got."""
    from evsrc import Query

    monkeypatch.setattr(reader, "_WINDOW", 10)
    async with await sqlite_store(tmp_path / "events.db", CODEC) as store:
        await store.append(Write(STREAM, facts(*range(95)), ANY))
        await store.append(Write(StreamName("rare", "1"), facts(1), ANY))
        reached, found, after = [], [], 0
        while after < await store.head():
            page = await store.read_all(Query.of(categories=["rare"]), after=after)
            after = page.reached
            reached.append(after)
            found += page.events
        assert reached == [*range(10, 96, 10), 96]
        assert [r.position for r in found] == [96]


async def test_streams_and_names_are_learned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's memory of streams is bounded; forgetting some changes nothing."""
    monkeypatch.setattr(reader, "_MOST_STREAMS", 5)
    async with await sqlite_store(tmp_path / "events.db", CODEC) as store:
        for n in range(30):
            await store.append(Write(StreamName("m", str(n)), facts(n), ANY))
            await store.read_all(after=max(0, n - 3), limit=4)
        page = await store.read_all()
        assert [r.stream.id for r in page.events] == [str(n) for n in range(30)]


SCRIPT = """
import asyncio, sys
from evsrc import sqlite_store, NewEvent, Write, StreamName, ANY
from evsrc.testing import CODEC, Fact, Tagged
from uuid import UUID, uuid4

async def main():
    store = await sqlite_store(sys.argv[1], CODEC)
    await store.append(Write(StreamName("s", "1"), [NewEvent(Fact(1), uuid4())], ANY))
    keep.append(store)

keep = []
asyncio.run(main())
print("end of main")
"""


@pytest.mark.parametrize("path", ["events.db", ":memory:"])
def test_a_forgotten_store_does_not_keep_the_process(tmp_path: Path, path: str) -> None:
    """A process that never closes its store ends all the same, and keeps its events."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path],
        cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert done.stdout == "end of main\n"
    if path == "events.db":
        with closing(sqlite3.connect(tmp_path / path)) as db:
            assert db.execute("SELECT count(*) FROM events").fetchone() == (1,)


async def test_close_waits_for_appends_under_way(tmp_path: Path) -> None:
    """What was asked for before `close` is recorded; it takes moments."""
    path = tmp_path / "events.db"
    store: EventStore[Any] = await sqlite_store(path, CODEC)
    appending = [
        asyncio.create_task(store.append(Write(StreamName("c", str(n)), facts(n), ANY)))
        for n in range(20)
    ]
    await asyncio.sleep(0)
    started = time.perf_counter()
    await store.close()
    assert time.perf_counter() - started < 5
    assert all(isinstance(o, Appended) for o in await asyncio.gather(*appending))
    assert not path.with_name("events.db-wal").exists()
    async with await sqlite_store(path, CODEC) as again:
        assert await again.head() == 20


async def test_a_bad_append_fails_alone(tmp_path: Path) -> None:
    """A value that SQLite cannot take fails its own append, not its neighbours."""
    async with await sqlite_store(tmp_path / "events.db", CODEC) as store:
        huge = SaveCheckpoint("x", 2**70)
        good, bad, other = await asyncio.gather(
            store.append(Write(STREAM, facts(1), ANY)),
            store.append(Write(STREAM, facts(2), ANY), also=[huge]),
            store.append(Write(STREAM, facts(3), ANY)),
            return_exceptions=True,
        )
        assert isinstance(good, Appended)
        assert isinstance(other, Appended)
        assert "too large" in str(bad)
        assert [e.n for e in (await store.load_events(STREAM)).events] == [1, 3]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            "DELETE FROM evsrc_tag WHERE tag IN (SELECT min(tag) FROM evsrc_tag)",
            "not indexed",
        ),
        (
            "UPDATE evsrc_tag SET tag = 7 WHERE tag IN (SELECT min(tag) FROM evsrc_tag)",
            "not indexed",
        ),
        ("UPDATE evsrc_tag SET type = type + 1", "not indexed"),
        ("INSERT INTO evsrc_tag VALUES (7, 1, 1)", "3 rows, not 2"),
    ],
)
async def test_a_damaged_index_of_tags_is_reported(
    damage: str, told: str, tmp_path: Path
) -> None:
    """No read can see what the index hides; `verify` does."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        tagged = [NewEvent(Tagged(1, ("a", "b")), uuid4())]
        await store.append(Write(STREAM, tagged, NO_STREAM))
        assert await store.verify() == ()
    with closing(sqlite3.connect(path)) as db:
        db.execute(damage)
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        (problem,) = await store.verify()
        assert told in problem


async def with_a_tag_of_nothing(tmp_path: Path) -> Path:
    """Make a file whose index of tags has an event at 9 that is not there."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        tagged = [NewEvent(Tagged(n, ("a",)), uuid4()) for n in (1, 2)]
        await store.append(Write(STREAM, tagged, NO_STREAM))
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO evsrc_tag SELECT tag, type, 9 FROM evsrc_tag LIMIT 1")
        db.execute("UPDATE evsrc_log SET head = 9, crc = ?", (number_crc("head", 9),))
        db.commit()
    return path


async def test_an_index_of_events_that_are_gone_is_damage(tmp_path: Path) -> None:
    """A read by tag that comes upon nothing says so."""
    path = await with_a_tag_of_nothing(tmp_path)
    async with await sqlite_store(path, CODEC) as store:
        with pytest.raises(CorruptionError, match="index of tags"):
            await store.read_all(Query.of(tags=["a"]))


async def test_a_condition_that_comes_upon_damage_fails_alone(tmp_path: Path) -> None:
    """An index row without its event ends the append that asks for it, no other."""
    path = await with_a_tag_of_nothing(tmp_path)
    asks = AppendCondition(Query.of(tags=["a"]), 2)
    async with await sqlite_store(path, CODEC) as store:
        good, bad, other = await asyncio.gather(
            store.append(Write(StreamName("c", "1"), facts(1), ANY)),
            store.append(Write(StreamName("c", "2"), facts(2), asks)),
            store.append(Write(StreamName("c", "3"), facts(3), ANY)),
            return_exceptions=True,
        )
        assert isinstance(good, Appended)
        assert isinstance(bad, CorruptionError)
        assert "index of tags" in str(bad)
        assert isinstance(other, Appended)
        assert (await store.load_events(StreamName("c", "2"))).events == []
