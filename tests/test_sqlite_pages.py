"""How pages of the SQLite store are fetched, checked, and read ahead."""

from __future__ import annotations

import asyncio
import sqlite3
import weakref
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiosqlite
import pytest

from evsrc import (
    ANY,
    CheckpointError,
    CorruptionError,
    Metadata,
    NewEvent,
    Query,
    SchemaError,
    SerializationError,
    StreamName,
    Write,
    sqlite_store,
)
from evsrc.core.codec import Opaque, opaque_codec
from evsrc.core.expectation import ALL
from evsrc.ports import EventStore, SaveCheckpoint
from evsrc.stores.sqlite import reader
from evsrc.stores.sqlite import store as store_module
from evsrc.stores.sqlite.checks import name_crc, opening, seal
from evsrc.stores.sqlite.connect import send
from evsrc.stores.sqlite.pages import Packed, fetch
from evsrc.testing import CODEC, Fact, Note, Tagged

STREAM = StreamName("s", "1")
FACTS = Query.of(types=["fact"])

Store = EventStore[Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After which position each page of the log was fetched."""
    fetched: list[int] = []

    def noted(db: sqlite3.Connection, statement: str, values: Sequence[Any]) -> Packed:
        if statement.startswith("log_page"):
            fetched.append(values[0])
        return fetch(db, statement, values)

    monkeypatch.setattr(reader, "fetch", noted)
    return fetched


def write(*numbers: int, stream: StreamName = STREAM) -> Write[Any]:
    return Write(stream, [NewEvent(Fact(n), uuid4()) for n in numbers], ANY)


async def walk(store: Store, count: int, after: int = 0, query: Any = ALL) -> list[int]:
    """Read up to so many pages of ten, and all that is read ahead; give the numbers."""
    seen: list[int] = []
    for _ in range(count):
        page = await store.read_all(query, after=after, limit=10)
        seen += [recorded.event.n for recorded in page.events]
        after = page.reached
        if after == page.head:
            break
    await store.read_stream(STREAM, limit=0)  # the thread does one after the other
    return seen


# Reading ahead.


@pytest.mark.parametrize("query", [ALL, FACTS])
async def test_a_walk_has_its_next_page_read_ahead(
    path: Path, pages: list[int], query: Any
) -> None:
    """From its second page on; each page is fetched once, and nothing is missing."""
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(47)))
        assert await walk(store, 1, query=query) == list(range(10))
        assert pages == [0]
        assert await walk(store, 1, 10, query) == list(range(10, 20))
        assert pages == [0, 10, 20]
        await store.append(write(*range(47, 52)))
        assert await walk(store, 9, 20, query) == list(range(20, 52))
    assert pages == [0, 10, 20, 30, 40, 50]


async def test_the_end_of_the_log_is_not_read_ahead(
    path: Path, pages: list[int]
) -> None:
    """Who has appended, and then reads up to the head, has read what he appended."""
    notes = Write(STREAM, [NewEvent(Note("x"), uuid4()) for _ in range(15)], ANY)
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(20)), notes, write(*range(20, 30)))
        assert await walk(store, 2, query=FACTS) == list(range(20))
        assert pages == [0, 10, 20], "the last ten were read, for nothing"
        await store.append(write(30))
        assert await walk(store, 9, 20, FACTS) == list(range(20, 31))


async def test_only_a_walk_reads_ahead(path: Path, pages: list[int]) -> None:
    """Lone pages, other questions and readers inside a transaction do not."""
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(60)))
        await walk(store, 1)
        await walk(store, 1, 20)
        await walk(store, 1, 30, FACTS)
        await store.read_all(after=40, limit=11)
        await store.read_all(before_first(), limit=10)
        async with store.transaction() as tx:
            for after in (0, 10, 20):
                await tx.read_all(after=after, limit=10)
    assert pages == [0, 20, 30, 40, 0, 0, 10, 20]


def before_first() -> Query:
    return Query.of(categories=["s"])


async def test_what_is_read_ahead_is_for_the_next_page_alone(
    path: Path, pages: list[int]
) -> None:
    """Whoever asks for something else gets that, and the walk reads on by itself."""
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(60)))
        for after, limit, query in ((30, 10, ALL), (20, 9, ALL), (20, 10, FACTS)):
            pages.clear()
            await walk(store, 2)
            assert pages == [0, 10, 20]
            page = await store.read_all(query, after=after, limit=limit)
            assert [r.position for r in page.events] == list(
                range(after + 1, after + limit + 1)
            )
            assert await walk(store, 1, 20) == list(range(20, 30))
            assert pages == [0, 10, 20, after, 20]


async def test_a_store_in_memory_reads_nothing_ahead(pages: list[int]) -> None:
    """It has one connection, which sees what may be rolled back."""
    async with await sqlite_store(":memory:", CODEC) as store:
        await store.append(write(*range(60)))
        assert await walk(store, 3) == list(range(30))
    assert pages == [0, 10, 20]


async def test_a_page_that_is_read_ahead_is_not_kept_for_long(
    path: Path, pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes late reads anew; the memory of the page is free by then."""
    monkeypatch.setattr(store_module, "_KEPT", kept := 0.05)
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(60)))
        await walk(store, 2)
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(kept, over.set)
        await over.wait()
        assert await walk(store, 1, 20) == list(range(20, 30))
    assert pages[:4] == [0, 10, 20, 20]


async def test_a_large_page_is_followed_by_none(
    path: Path, pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read ahead takes no more memory than some pages do."""
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(60)))
        monkeypatch.setattr(reader, "_LARGEST_AHEAD", 10 * 60)
        assert await walk(store, 3) == list(range(30))
    assert pages == [0, 10, 20]


async def test_what_is_wrong_ahead_is_told_when_it_is_asked_for(
    path: Path, pages: list[int]
) -> None:
    """The page before is whole; the damaged one is refused, with its position."""
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(60)))
    change(path, "data = x'7b7d' WHERE position = 25")
    async with await sqlite_store(path, CODEC) as store:
        assert await walk(store, 2) == list(range(20))
        assert pages == [0, 10, 20]
        with pytest.raises(CorruptionError, match="position 25 is damaged"):
            await walk(store, 1, 20)


async def test_a_page_that_cannot_be_decoded_is_told_when_it_is_asked_for(
    path: Path,
) -> None:
    """The same for events that are whole, and of no shape that the codec knows."""
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(25)))
        await store.append(Write(STREAM, [NewEvent(Note("x"), uuid4())], ANY))
        await store.append(write(*range(25, 60)))
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE evsrc_name SET name = 'f' WHERE name = 'fact'")
        db.execute("UPDATE evsrc_name SET name = 'fact' WHERE name = 'note'")
        for key, name in db.execute("SELECT key, name FROM evsrc_name").fetchall():
            crc = name_crc(key, name)
            db.execute("UPDATE evsrc_name SET crc = ? WHERE key = ?", (crc, key))
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        after = 0
        for _ in range(2):
            after = (await store.read_all(after=after, limit=10)).reached
        with pytest.raises(SerializationError, match="fact"):
            await store.read_all(after=after, limit=10)


# Fetching.


class Thing:
    """What a thread has found."""


async def test_the_thread_keeps_nothing_that_it_has_handed_over() -> None:
    """It has begun nothing else; a page lives as long as whoever asked for it keeps it."""
    async with aiosqlite.connect(":memory:") as db:
        found = await send(db, Thing)
        kept = weakref.ref(found)
        del found
        async with asyncio.timeout(10):
            while kept() is not None:  # the thread is on its way to wait for more
                await asyncio.sleep(0)


async def test_pages_that_sqlite_makes_no_value_of_are_read_in_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's largest value (1,000,000,000 bytes, here 4,000) bounds no page."""
    made = reader.Reader

    def limited(db: sqlite3.Connection, codec: Any) -> Any:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 4_000)
        return made(db, codec)

    def news(n: int) -> list[NewEvent[Any]]:
        texts = [Fact(n, "x" * 900), Tagged(n, ("a",))]
        return [NewEvent(each, uuid4(), Metadata(actor_id="ann")) for each in texts]

    async def read(store: Store) -> list[Any]:
        stream = StreamName("s", "3")
        read = [
            await store.read_all(),
            await store.read_all(FACTS),
            await store.read_all(Query.of(tags=["a"])),
            await store.read_all(backward=True),
            await store.read_stream(stream),
            await store.read_stream(stream, backward=True),
        ]
        return [page.events for page in read]

    async with await sqlite_store(path, CODEC) as store:
        for n in range(10):
            stream = StreamName("s", str(n % 4))
            await store.append(Write(stream, news(n), ANY))
        expected = await read(store)
    monkeypatch.setattr(store_module, "Reader", limited)
    async with await sqlite_store(path, CODEC) as store:
        assert await read(store) == expected
    assert [len(events) for events in expected] == [20, 10, 10, 20, 4, 4]


async def test_bytes_that_are_no_text_come_back(path: Path) -> None:
    """SQLite puts blobs together as if they were text; not a byte is changed."""
    data = [bytes(range(256)), b"", b"\0", b"\xff\xfe\xff", b"\xc3", b"\n" * 3]
    async with await sqlite_store(path, opaque_codec()) as store:
        events = [NewEvent(Opaque("t", each), uuid4()) for each in data]
        await store.append(Write(STREAM, events, ANY))
        page = await store.read_all()
        assert [recorded.event.data for recorded in page.events] == data
        assert await store.verify() == ()


async def test_a_file_in_another_encoding_is_refused(path: Path) -> None:
    """SQLite would change what it puts together; nothing is written."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA encoding = 'UTF-16le'")
        db.execute("CREATE TABLE x (y)")
        db.execute("DROP TABLE x")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(SchemaError, match=r"is UTF-16le; evsrc needs one in UTF-8"):
        await sqlite_store(path, CODEC)
    assert path.read_bytes() == before


# Checking.


def change(path: Path, *changes: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER evsrc_event_is_a_fact_update")
        for each in changes:
            db.execute(f"UPDATE evsrc_event SET {each}")
        db.commit()


OTHER = StreamName("s", "2")


@pytest.mark.parametrize(
    ("damage", "position"),
    [
        ("opens = CAST('s' || char(0) || '7' || x'ff' AS BLOB) WHERE position = 1", 1),
        ("opens = x'' WHERE position = 1", 1),
        ("opens = x'7300' WHERE position = 1", 1),
        ("opens = x'7300ff' WHERE position = 2", 2),
        ("opens = x'00' WHERE position = 2", 2),
        ("meta = x'7b7d' WHERE position = 2", 2),
        ("meta = NULL WHERE position = 3", 3),
        ("data = data || x'20' WHERE position = 3", 3),
        ("data = x'' WHERE position = 3", 3),
        ("data = data || x'20' WHERE position = 4", 4),
        ("opens = x'00' WHERE position = 4", 4),
        ("data = 7 WHERE position = 3", 3),
        ("envelope = x'00' WHERE position = 2", 2),
        ("envelope = CAST(envelope || envelope AS BLOB) WHERE position = 2", 2),
        ("envelope = (SELECT envelope FROM evsrc_event LIMIT 1) WHERE position = 1", 0),
    ],
)
async def test_each_value_of_a_row_is_checked(
    path: Path, damage: str, position: int
) -> None:
    """The event that is damaged is named by whoever reads it, and by `verify`."""
    async with await sqlite_store(path, CODEC) as store:
        known = [NewEvent(Fact(n), uuid4(), Metadata(actor_id="ann")) for n in (1, 2)]
        await store.append(write(0), Write(OTHER, known[:1], ANY))
        await store.append(Write(STREAM, known[1:], ANY), write(9, stream=OTHER))
        whole = (await store.read_all()).events
    change(path, damage)
    named = f"position {position} is damaged"
    async with await sqlite_store(path, CODEC) as store:
        if not position:
            assert (await store.read_all()).events == whole
            assert await store.verify() == ()
            return
        for query in (ALL, FACTS):
            with pytest.raises(CorruptionError, match=named):
                await store.read_all(query)
        with pytest.raises(CorruptionError, match=named):
            await store.read_all(backward=True)
        assert any(named in problem for problem in await store.verify())


async def test_events_that_have_changed_places_are_noticed(path: Path) -> None:
    """An event says itself where it is; one that was moved is read by no walk."""
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(*range(4)))
    swap = ("-1 WHERE position = 2", "2 WHERE position = 3", "3 WHERE position = -1")
    change(path, *[f"position = {each}" for each in swap])
    async with await sqlite_store(path, CODEC) as store:
        for query in (ALL, FACTS):
            with pytest.raises(CorruptionError, match="position 2 is damaged"):
                await store.read_all(query)
        assert await store.verify() != ()


async def test_a_stream_that_an_event_opens_falsely_is_found_by_verify(
    path: Path,
) -> None:
    """An event that says, wholly, that it opens another stream than the file has."""
    async with await sqlite_store(path, CODEC) as store:
        await store.append(write(0))
        (recorded,) = (await store.read_all()).events
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER evsrc_event_is_a_fact_update")
        (row,) = db.execute(
            "SELECT position, stream, version, type, at, meta, data FROM evsrc_event"
        ).fetchall()
        *place, at, meta, data = row
        opens = opening("s", "wrong")
        id = recorded.id.bytes
        envelope = seal(*place, id, at, opens, meta, data)
        db.execute("UPDATE evsrc_event SET opens = ?, envelope = ?", (opens, envelope))
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        (problem,) = await store.verify()
        assert "stream at position 1 is damaged" in problem


# Checkpoints.


async def test_a_checkpoint_moves_only_from_where_it_is(path: Path) -> None:
    """Who has another position in mind is refused; so is one that is damaged."""
    async with await sqlite_store(path, CODEC) as store:
        save = store.checkpoints.save
        await store.append(write(*range(9)))
        with pytest.raises(CheckpointError):
            await save(SaveCheckpoint("x", 5, after=2))
        await save(SaveCheckpoint("x", 2, after=0))
        await save(SaveCheckpoint("x", 5, after=2))
        with pytest.raises(CheckpointError):
            await save(SaveCheckpoint("x", 6, after=2))
        found = await store.checkpoints.load("x")
        assert found is not None
        assert found.position == 5
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE evsrc_checkpoint SET crc = crc + 1")
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        with pytest.raises(CorruptionError, match="'x' is damaged"):
            await store.checkpoints.save(SaveCheckpoint("x", 6, after=5))
