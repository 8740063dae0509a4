"""Open an SQLite event store: one connection writes, another reads, through aiosqlite.

A whole transaction or page is one hop to its connection's thread. Appends that arrive
while a commit is in flight share the next one (group commit).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, Generic, Literal, TypeVar
from uuid import UUID

import aiosqlite

from ...core.codec import Codec
from ...core.errors import EvsrcError, StoreClosedError, StoreError
from ...core.event import E, Recorded, StreamName
from ...core.expectation import ALL, AnyQuery
from ...core.snapshot import Snapshot
from ...ports import (
    START,
    Also,
    Appended,
    AtHand,
    Checkpoint,
    Checkpoints,
    Conflict,
    EventStore,
    Loaded,
    Page,
    Snapshots,
    Transaction,
    Write,
)
from ..commits import Added, Commits, Job, Verdict, added_by, encode_write
from ..transactions import watched
from ..wakeup import Wakeup
from .connect import send, start, unobtrusive, use_wal
from .errors import translated
from .reader import Reader
from .records import dead_letters, leases
from .schema import migrate, recognise
from .sql import sql
from .transaction import SQLiteConnection
from .writer import Committed, Writer

T = TypeVar("T")

_log: Final = logging.getLogger("evsrc")
_SAFE_WAL: Final = (3, 51, 3)
_POLL: Final = timedelta(milliseconds=200)
_KEPT: Final = 1.0  # seconds: a reader that takes longer would gain little


class _Connection:
    """One aiosqlite connection and the functions run on its thread."""

    def __init__(self, path: str, busy_timeout: timedelta, *, read_only: bool) -> None:
        self.path = path
        self.busy_timeout = busy_timeout
        self.closed = False
        target = f"{Path(path).absolute().as_uri()}?mode=ro" if read_only else path
        self.db = unobtrusive(
            aiosqlite.connect(
                target,
                uri=read_only,
                isolation_level=None,
                cached_statements=64,
                timeout=busy_timeout.total_seconds(),
            )
        )

    async def open(self, prepare: Callable[[sqlite3.Connection], T]) -> T:
        try:
            await start(self.db)
        except sqlite3.Error as error:
            raise self.translated(error) from error
        try:
            return await self.run(lambda: prepare(self.db._conn))  # noqa: SLF001
        except BaseException:
            await self.close()
            raise

    async def run(
        self,
        work: Callable[[], T],
        then: Callable[[], object] | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> T:
        """Run *work* in the connection's thread, and *meanwhile*, which is quick, here.

        Nobody waits for what *then* does in that thread.
        """
        if self.closed:
            raise StoreClosedError(self.path)
        answer = send(self.db, work, then)
        if meanwhile is not None:
            meanwhile()
        try:
            return await answer
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise self.translated(error) from error

    def translated(self, error: Exception) -> Exception:
        seconds = self.busy_timeout.total_seconds()
        return translated(error, self.path, busy_timeout=seconds)

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            await self.db.close()


class _Store(Generic[E]):
    """The functions of the store's record, over its two connections."""

    def __init__(
        self,
        codec: Codec[E],
        writing: _Connection,
        writer: Writer,
        reading: _Connection,
        reader: Reader[E],
        largest_commit: int,
    ) -> None:
        self.codec = codec
        self.writing = writing
        self.writer = writer
        self.reading = reading
        self.reader = reader
        self.wakeup = Wakeup()
        self.forgetting: asyncio.TimerHandle | None = None
        self.shared = reading is not writing
        path = writing.path
        self.commits = Commits(self.commit, largest=largest_commit, store=path)

    async def append(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        return await self.commits.submit(self.job(writes, also))

    def job(self, writes: Sequence[Write[E]], also: Sequence[Also]) -> Job:
        encoded = tuple([encode_write(write, self.codec) for write in writes])
        return Job(encoded, also, sum([len(write.ids) for write in encoded]))

    async def commit(self, jobs: Sequence[Job]) -> Sequence[Verdict]:
        # in memory nobody looks again, if the caller of a lone append has gone by then
        codec, writer, wakeup = self.codec, self.writer, self.wakeup
        if self.shared and not wakeup.awaited:
            done = await self.writing.run(partial(writer.commit, jobs))
            wakeup.advance(done.head)
            return done.verdicts
        added: Added[E] | None = None

        def work() -> Committed:
            """Commit, and at once hand what was committed to whoever waits for it."""
            done, page = writer.commit(jobs), None
            if added is not None:
                page = added(done.verdicts, done.at)
            wakeup.advance(done.head, page)
            return done

        def meanwhile() -> None:
            nonlocal added
            if wakeup.awaited:
                added = added_by(codec, jobs)

        return (await self.writing.run(work, meanwhile=meanwhile)).verdicts

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction[E]]:
        writer, run, path = self.writer, self.writing.run, self.writing.path
        connection = SQLiteConnection(run, writer.db, writer.check_open)
        reader = Reader(writer.db, self.codec)

        async def read_all(
            query: AnyQuery = ALL,
            *,
            after: int = START,
            limit: int = 1000,
            backward: bool = False,
        ) -> Page[E]:
            page = reader.read_backward if backward else reader.read_all
            return await run(lambda: page(query, after, limit))

        inside = Transaction(
            self.append_inside,
            read_all,
            lambda name: run(lambda: reader.checkpoint(name)),
            lambda name: run(lambda: reader.snapshot(name)),
            connection,
        )

        def undo() -> None:
            writer.roll_back()
            if not self.shared:  # it may have seen names that are gone now
                self.reader.forget()

        async with self.commits.line.held():
            if self.commits.closing:
                raise StoreClosedError(path)
            try:
                await run(writer.open)
                async with watched(inside, path) as (tx, _):
                    yield tx
                head = await run(writer.end)
            except BaseException:
                with suppress(StoreError):  # closed: it is rolled back already
                    await run(undo)
                raise
            finally:
                connection.close()
        self.wakeup.advance(head)

    async def append_inside(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        job = self.job(writes, also)
        verdict = await self.writing.run(lambda: self.writer.append(job))
        if isinstance(verdict, EvsrcError):
            raise verdict
        return verdict

    async def write(self, work: Callable[[], T]) -> T:
        """Run what is a transaction of its own, when none of the user's is open."""
        await self.commits.line.free()
        return await self.writing.run(work)

    async def read(self, work: Callable[[], T]) -> T:
        """Run a read; in memory, where there is one connection, when it may be seen."""
        if not self.shared and not self.commits.line.is_inside():
            await self.commits.line.free()
        return await self.reading.run(work)

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after: int = 0,
        limit: int | None = None,
        backward: bool = False,
    ) -> Page[E]:
        return await self.read(
            lambda: self.reader.read_stream(stream, after, limit, backward=backward)
        )

    async def load_events(self, stream: StreamName, *, after: int = 0) -> Loaded[E]:
        return await self.read(lambda: self.reader.load_events(stream, after))

    async def read_all(
        self,
        query: AnyQuery = ALL,
        *,
        after: int = START,
        limit: int = 1000,
        backward: bool = False,
    ) -> Page[E]:
        reader = self.reader
        if backward:
            return await self.read(lambda: reader.read_backward(query, after, limit))
        if not self.shared:  # one connection: what it finds may be rolled back
            return await self.read(lambda: reader.read_all(query, after, limit))
        try:
            return await self.reading.run(
                lambda: reader.read_all(query, after, limit), reader.read_ahead
            )
        finally:
            self.keep_ahead()

    def keep_ahead(self) -> None:
        if self.forgetting is not None:
            self.forgetting.cancel()
        loop = asyncio.get_running_loop()
        self.forgetting = loop.call_later(_KEPT, self.reader.drop_ahead)

    async def find(self, event_id: UUID) -> Recorded[E] | None:
        return await self.read(lambda: self.reader.find(event_id.bytes))

    async def head(self) -> int:
        return await self.read(self.reader.head)

    async def changed(self, position: int, *, timeout: timedelta) -> AtHand[E] | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        while True:
            left = timedelta(seconds=max(0.0, deadline - loop.time()))
            pause = min(left, _POLL) if self.shared else left
            page = await self.wakeup.wait(position, pause)
            if self.wakeup.head > position or self.commits.closing:
                return None if page is None else AtHand(self.read_all, page)
            self.wakeup.advance(await self.head())  # another process may have written
            if self.wakeup.head > position or loop.time() >= deadline:
                return None

    async def load_checkpoint(self, name: str) -> Checkpoint | None:
        return await self.read(lambda: self.reader.checkpoint(name))

    async def load_snapshot(self, name: str) -> Snapshot[bytes] | None:
        return await self.read(lambda: self.reader.snapshot(name))

    async def save(self, change: Also) -> None:
        await self.commits.submit(Job((), (change,), 0))

    async def delete(self, statement: str, name: str) -> None:
        db = self.writer.db
        await self.write(lambda: db.execute(sql(statement), (name,)))

    async def verify(self) -> tuple[str, ...]:
        return await self.read(self.reader.verify)

    async def close(self) -> None:
        await self.commits.close()
        self.wakeup.rouse()
        if self.forgetting is not None:
            self.forgetting.cancel()
        await self.reading.close()  # first: the writer is the one that checkpoints
        await self.writing.close()

    def record(self) -> EventStore[E]:
        db, reading = self.writer.db, self.reader.db
        write, read = self.write, self.read
        return EventStore(
            append=self.append,
            transaction=self.transaction,
            read_stream=self.read_stream,
            load_events=self.load_events,
            read_all=self.read_all,
            find=self.find,
            head=self.head,
            changed=self.changed,
            checkpoints=Checkpoints(
                self.load_checkpoint,
                self.save,
                lambda name: self.delete("delete_checkpoint", name),
            ),
            snapshots=Snapshots(
                self.load_snapshot,
                self.save,
                lambda name: self.delete("delete_snapshot", name),
            ),
            dead_letters=dead_letters(db, reading, write, read, self.save),
            leases=leases(db, reading, write, read),
            encode=self.codec.encode,
            verify=self.verify,
            close=self.close,
        )


async def sqlite_store(
    path: str | os.PathLike[str],
    codec: Codec[E],
    *,
    synchronous: Literal["FULL", "NORMAL"] = "FULL",
    busy_timeout: timedelta = timedelta(seconds=5),
    largest_commit: int = 500,
) -> EventStore[E]:
    """Open (and, if it is new, create) an event store in an SQLite file.

    Args:
        path: the file, whose directory must exist; ":memory:" for a store that lives as
            long as it is open.
        codec: how events are named, checked, written and read.
        synchronous: FULL: an acknowledged append survives power loss. NORMAL: it
            survives the end of the process, a power loss may take the last ones.
        busy_timeout: how long to wait for another process that writes.
        largest_commit: waiting appends share one transaction up to about this many
            events; 1 turns sharing off.

    Raises:
        StoreUnavailableError: the file cannot be opened, such as a missing directory.
        SchemaError: the file is no evsrc database, or one of a newer evsrc.
        CorruptionError: the file is damaged.
        ValueError: another value of *synchronous* or *largest_commit*.
    """
    if synchronous not in ("FULL", "NORMAL"):
        raise ValueError(f"synchronous is FULL or NORMAL, not {synchronous!r}")
    if largest_commit < 1:
        raise ValueError(f"largest_commit is at least 1, not {largest_commit!r}")
    path = os.fspath(path)
    in_memory = path == ":memory:"
    writing = _Connection(path, busy_timeout, read_only=False)

    def prepare_writer(db: sqlite3.Connection) -> Writer:
        recognise(db, path)
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA cache_size = -32768")
        if not in_memory:
            use_wal(db, busy_timeout.total_seconds())
        db.execute(f"PRAGMA synchronous = {synchronous}")
        migrate(db, path)
        old = sqlite3.sqlite_version_info < _SAFE_WAL and not in_memory
        return Writer(db, watch=partial(_warn, path) if old else None)

    writer = await writing.open(prepare_writer)
    reading = writing
    try:
        if in_memory:
            reader = Reader(writer.db, codec)
        else:
            reading = _Connection(path, busy_timeout, read_only=True)
            reader = await reading.open(lambda db: _prepare_reader(db, codec))
        store = _Store(codec, writing, writer, reading, reader, largest_commit)
        store.wakeup.head = await store.head()
    except BaseException:
        await writing.close()
        raise
    return store.record()


def _prepare_reader(db: sqlite3.Connection, codec: Codec[E]) -> Reader[E]:
    db.execute("PRAGMA query_only = ON")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA cell_size_check = ON")
    db.execute("PRAGMA cache_size = -32768")
    return Reader(db, codec)


def _warn(path: str) -> None:
    """Log that the file has several writers."""
    _log.warning(
        "several connections write to %r with SQLite %s: before %s that can, rarely, "
        "corrupt a WAL database; write through one connection, or upgrade SQLite",
        path,
        sqlite3.sqlite_version,
        ".".join(map(str, _SAFE_WAL)),
    )
