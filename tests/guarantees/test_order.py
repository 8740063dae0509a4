"""R1 to R4: readers miss nothing, see streams in order, and are not stopped by news."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Struct

from evsrc import NO_STREAM, NewEvent, Opaque, StreamName, Write, json_codec
from evsrc.ports import EventStore
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing import CODEC, Fact, Note
from tests.conftest import OpenStore

WRITER = Path(__file__).with_name("writer_process.py")
WRITERS, EACH = 4, 26_000


class Tail:
    """A reader that follows the log and checks all it sees."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.versions: dict[StreamName, int] = {}
        self.pages = 0

    async def follow(self, store: EventStore[Any], until: asyncio.Event) -> None:
        after = 0
        while True:
            done = until.is_set()
            page = await store.read_all(after=after, limit=700)
            self.see(page, after)
            after = page.reached
            if done and after >= page.head:
                return
            if after >= page.head:
                await store.changed(after, timeout=timedelta(milliseconds=50))

    def see(self, page: Any, after: int) -> None:
        self.pages += 1
        for recorded in page.events:
            assert recorded.position > after, "a position at or below the last one"
            after = recorded.position
            self.positions.append(after)
            expected = self.versions.get(recorded.stream, 0) + 1
            assert recorded.version == expected, "a stream out of order"
            assert recorded.event.n == expected - 1
            self.versions[recorded.stream] = expected
        assert page.head >= page.reached, "a head behind its own page"


@pytest.mark.timeout(300)
async def test_r1_r2_r3_tailing_readers_miss_nothing(tmp_path: Path) -> None:
    """Four processes write 104,000 events in batches; two tailing readers see all."""
    database = tmp_path / "events.db"
    async with await sqlite_store(database, CODEC, synchronous="NORMAL") as store:
        writers = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                str(WRITER),
                "batches",
                str(database),
                str(n),
                str(EACH),
                stdout=asyncio.subprocess.PIPE,
            )
            for n in range(WRITERS)
        ]
        done, tails = asyncio.Event(), [Tail(), Tail()]
        following = [asyncio.create_task(tail.follow(store, done)) for tail in tails]
        said = [(await writer.communicate())[0].split() for writer in writers]
        done.set()
        await asyncio.gather(*following)
        stored = sum(int(count) for _, count in said)
        assert await store.head() == stored >= 100_000
        for tail in tails:
            assert tail.positions == list(range(1, stored + 1))
            assert len(tail.versions) == WRITERS * 4
        print(
            f"R1-R3: {stored} stored, {[len(t.positions) for t in tails]} delivered, "
            f"0 missed, 0 doubled, {sum(t.pages for t in tails)} pages"
        )


async def test_r1_r2_one_process_many_tasks(store: EventStore[Any]) -> None:
    """Many tasks append to many streams while readers follow: all is seen, in order."""
    done, tails = asyncio.Event(), [Tail() for _ in range(3)]

    async def write(name: int) -> None:
        for n in range(0, 150, 3):
            events = [NewEvent(Fact(n + i), uuid4()) for i in range(3)]
            await store.append(Write(StreamName("task", str(name)), events, n))
            await asyncio.sleep(0)

    following = [asyncio.create_task(tail.follow(store, done)) for tail in tails]
    await asyncio.gather(*(write(name) for name in range(20)))
    done.set()
    await asyncio.gather(*following)
    for tail in tails:
        assert len(tail.positions) == len(set(tail.positions)) == 3000


class FactWithMore(Struct, frozen=True):
    """The same event, as a newer process writes it."""

    n: int
    text: str = ""
    more: str = "new"


async def test_r4_news_never_stop_a_reader(
    open_store: OpenStore, evsrc_back_end: str
) -> None:
    """Unknown types and fields of a newer writer are read: as Opaque, and ignored."""
    newer: Any = json_codec({"fact": FactWithMore, "invented-later": Note})
    stream = StreamName("news", "x")
    events = [
        NewEvent(FactWithMore(1), uuid4()),
        NewEvent(Note("?"), uuid4()),
        NewEvent(FactWithMore(2), uuid4()),
    ]
    if "memory" in evsrc_back_end:  # these end with their process
        known = CODEC.decode("fact", newer.encode(events[0].event))
        assert known == Fact(1)
        assert isinstance(CODEC.decode("invented-later", b"{}"), Opaque)
        return
    async with await open_store(newer) as store:
        await store.append(Write(stream, events, NO_STREAM))
    async with await open_store(CODEC) as store:
        page = await store.read_all()
        loaded = await store.load_events(stream)
    seen = [recorded.event for recorded in page.events]
    assert seen == list(loaded.events)
    assert seen == [Fact(1), Opaque("invented-later", b'{"text":"?"}'), Fact(2)]
