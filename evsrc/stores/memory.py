"""Keep events in memory: the store to learn from, and to test domains with.

Values are kept as they are, never copied. Every read goes through an index: a dict, or
a bisection; none scans the log. It belongs to one event loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Generic, cast
from uuid import UUID

from msgspec.structs import force_setattr

from ..core.codec import Codec, value_codec
from ..core.errors import CheckpointError, DuplicateEventError, StoreClosedError
from ..core.event import E, Recorded, StreamName
from ..core.expectation import ALL, ANY, NO_STREAM, AnyQuery, AppendCondition, satisfies
from ..core.snapshot import Snapshot
from ..ports import (
    START,
    Also,
    Appended,
    Checkpoint,
    Checkpoints,
    Conflict,
    EventStore,
    Fence,
    Loaded,
    Page,
    Placed,
    SaveCheckpoint,
    SaveDeadLetter,
    SaveSnapshot,
    Snapshots,
    Transaction,
    Write,
)
from .log_index import LogIndex
from .records import MemoryRecords
from .transactions import Line, watched
from .wakeup import Wakeup


class _Memory(Generic[E]):
    """The log, and one index for each way to read it."""

    def __init__(self, codec: Codec[E], now: Callable[[], datetime]) -> None:
        self.codec = codec
        self.log: list[Recorded[E]] = []
        self.streams: defaultdict[str, dict[str, list[Recorded[E]]]] = defaultdict(dict)
        self.index: LogIndex[E] = LogIndex(self.log)
        self.ids: dict[int, Recorded[E]] = {}
        self.checkpoints: dict[str, int] = {}
        self.snapshots: dict[str, Snapshot[bytes]] = {}
        self.line = Line("memory")
        self.records = MemoryRecords(self.check_open, self.line.free, now)
        self.end: int | None = (
            None  # where the log ends for readers: a transaction is open
        )
        self.staged: list[Also] = []
        self.wakeup = Wakeup()
        self.closed = False

    def stream(self, name: StreamName) -> Sequence[Recorded[E]]:
        return self.streams[name.category].get(name.id, ())

    def check_open(self) -> None:
        if self.closed:
            raise StoreClosedError("memory")

    # Appending. Nothing here awaits, so an append is one step for everyone else.

    async def append(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        if self.line.open:
            await self.line.free()
        if self.closed:
            self.check_open()
        done = self.record(writes, also)
        self.wakeup.advance(len(self.log))
        return done

    def record(
        self, writes: Sequence[Write[E]], also: Sequence[Also]
    ) -> Appended | Conflict:
        """Judge *writes* and, if they fit, add them."""
        if len(writes) == 1 and not also:  # by far the most frequent
            done = self.place(writes[0])
        else:
            done = self.place_all(writes, also)
        if isinstance(done, Appended):
            return done
        repeated = self.repeated(writes)
        if repeated is not None:
            return repeated
        if done is None:
            raise self.duplicate(writes)
        return done

    def place(self, write: Write[E]) -> Appended | Conflict | None:
        """Add the events of *write*; None: an id is taken, nothing was added."""
        stream, expected, name = write.stream, write.expected, self.codec.name
        tags_of = self.codec.tags
        ids, log, streams = self.ids, self.log, self.streams[stream.category]
        known = streams.get(stream.id)
        before, position = len(known) if known else 0, len(log)
        version, first, at = before, position + 1, time_ns() // 1000
        fresh: dict[int, Recorded[E]] = {}
        taken = False
        for new in write.events:
            version += 1
            position += 1
            event, id = new.event, new._id  # noqa: SLF001 - a property costs a call
            if not isinstance(id, int):
                id = id.int
            if id in ids:
                taken = True
            fresh[id] = Recorded(
                event, name(event), stream, version, position, id, new.metadata, at
            )
            if tags_of is not None and (tags := tags_of(event)):
                force_setattr(fresh[id], "_tags", tags)
        if expected != before and (before or expected is not NO_STREAM):
            conflict = self.conflict(write, before)
            if conflict is not None:
                return conflict
        if taken or len(fresh) < version - before:
            return None
        ids |= fresh
        added = list(fresh.values())
        log += added
        if known:
            known += added
        else:
            streams[stream.id] = added
        return Appended((Placed(stream, version, first, position),))

    def place_all(
        self, writes: Sequence[Write[E]], also: Sequence[Also]
    ) -> Appended | Conflict | None:
        """Do the same for *writes* together: first judge them all, then place them."""
        ends: dict[StreamName, int] = {}
        numbers: list[int] = []
        conflict: Conflict | None = None
        for write in writes:
            actual = ends.get(write.stream, len(self.stream(write.stream)))
            conflict = conflict or self.conflict(write, actual)
            ends[write.stream] = actual + len(write.events)
            for new in write.events:
                self.codec.name(new.event)  # refuses what is no event
                if self.codec.tags is not None:
                    self.codec.tags(new.event)
                numbers.append(new.number)
        if conflict is not None:
            return conflict
        if len(set(numbers)) < len(numbers) or not self.ids.keys().isdisjoint(numbers):
            return None
        self.check(also)
        done = [cast("Appended", self.place(unconditional(write))) for write in writes]
        if self.end is None:
            for change in also:
                self.change(change)
        else:
            self.staged += also
        return Appended(tuple([one.placed[0] for one in done]))

    def conflict(self, write: Write[E], actual: int) -> Conflict | None:
        """Judge a write to a stream that is at version *actual*."""
        expected = write.expected
        if not satisfies(expected, actual):
            version = getattr(expected, "version", expected)
            return Conflict(write.stream, version, actual)
        if isinstance(expected, AppendCondition):
            against = self.index.last(expected.query, expected.after)
            if against is not None:
                return Conflict(write.stream, expected, against)
        return None

    def repeated(self, writes: Sequence[Write[E]]) -> Appended | None:
        """Tell where these events already are, if all are, in the same places."""
        placed: list[Placed] = []
        for write in writes:
            found = [self.ids.get(new.number) for new in write.events]
            first = found[0]
            if first is None:
                return None
            for offset, recorded in enumerate(found):
                if (
                    recorded is None
                    or recorded.stream != write.stream
                    or recorded.version != first.version + offset
                ):
                    return None
            last = cast("Recorded[E]", found[-1])
            placed.append(
                Placed(write.stream, last.version, first.position, last.position)
            )
        return Appended(tuple(placed), repeated=True)

    def duplicate(self, writes: Sequence[Write[E]]) -> DuplicateEventError:
        seen = set(self.ids)
        for write in writes:
            for new in write.events:
                if new.number in seen:
                    return DuplicateEventError(new.id, write.stream)
                seen.add(new.number)
        raise AssertionError("unreachable: there is a duplicate")

    def check(self, also: Sequence[Also]) -> None:
        for change in also:
            match change:
                case SaveCheckpoint(name, _, after) if after is not None:
                    actual = self.checkpoints.get(name, START)
                    for earlier in self.staged:
                        if isinstance(earlier, SaveCheckpoint) and earlier.name == name:
                            actual = earlier.position
                    if actual != after:
                        raise CheckpointError(name, after, actual)
                case Fence():
                    self.records.check(change)
                case _:
                    pass

    def change(self, change: Also) -> None:
        match change:
            case SaveCheckpoint(name, position):
                self.checkpoints[name] = position
            case SaveSnapshot(name, snapshot):
                self.snapshots[name] = snapshot
            case SaveDeadLetter(letter):
                self.records.put(letter)
            case Fence():
                pass

    # A transaction is recorded at once and shown at its end. All others who write wait.

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction[E]]:
        async with self.line.held():
            self.check_open()
            self.end = before = len(self.log)
            try:
                async with watched(self.inside(), "memory") as (tx, _):
                    yield tx
                self.check_open()
                for change in self.staged:
                    self.change(change)
            except BaseException:
                self.undo(before)
                raise
            finally:
                self.end, self.staged = None, []
        self.wakeup.advance(len(self.log))

    def inside(self) -> Transaction[E]:
        async def load_checkpoint(name: str) -> Checkpoint | None:
            staged = [c for c in self.staged if isinstance(c, SaveCheckpoint)]
            found = [c.position for c in staged if c.name == name]
            return (
                Checkpoint(name, found[-1])
                if found
                else await self.load_checkpoint(name)
            )

        async def load_snapshot(name: str) -> Snapshot[bytes] | None:
            staged = [c for c in self.staged if isinstance(c, SaveSnapshot)]
            found = [c.snapshot for c in staged if c.name == name]
            return found[-1] if found else await self.load_snapshot(name)

        append, read_all = self.append_inside, self.read_inside
        return Transaction(append, read_all, load_checkpoint, load_snapshot, None)

    async def append_inside(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        self.check_open()
        return self.record(writes, also)

    async def read_inside(
        self,
        query: AnyQuery = ALL,
        *,
        after: int = START,
        limit: int = 1000,
        backward: bool = False,
    ) -> Page[E]:
        self.check_open()
        return self.page(query, after, limit, len(self.log), backward=backward)

    def undo(self, end: int) -> None:
        """Take back what was recorded after *end*."""
        self.index.cut(end)
        for recorded in self.log[end:]:
            del self.ids[recorded.id.int]
            self.streams[recorded.stream.category][recorded.stream.id].pop()
        del self.log[end:]

    # Reading.

    def visible(self) -> int:
        """Give the log's end for readers."""
        return len(self.log) if self.end is None else self.end

    def shown(self, stream: StreamName) -> Sequence[Recorded[E]]:
        """Give the part of a stream that readers may see."""
        recorded = self.stream(stream)
        if self.end is None:
            return recorded
        return [each for each in recorded if each.position <= self.end]

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after: int = 0,
        limit: int | None = None,
        backward: bool = False,
    ) -> Page[E]:
        self.check_open()
        recorded = self.shown(stream)
        count = len(recorded) if limit is None else limit
        if backward:
            end = len(recorded) if after == 0 else min(after - 1, len(recorded))
            events = tuple(reversed(recorded[max(0, end - count) : end]))
        else:
            events = tuple(recorded[after : after + count])
        reached = events[-1].version if events else after
        return Page(events, reached, len(recorded))

    async def load_events(self, stream: StreamName, *, after: int = 0) -> Loaded[E]:
        if self.closed:
            self.check_open()
        recorded: Sequence[Recorded[E]]
        if self.end is None:
            recorded = self.streams[stream.category].get(stream.id, ())
        else:
            recorded = self.shown(stream)
        tail = recorded[after:] if after else recorded
        return Loaded([each.event for each in tail], len(recorded))

    async def read_all(
        self,
        query: AnyQuery = ALL,
        *,
        after: int = START,
        limit: int = 1000,
        backward: bool = False,
    ) -> Page[E]:
        self.check_open()
        return self.page(query, after, limit, self.visible(), backward=backward)

    def page(
        self, query: AnyQuery, after: int, limit: int, head: int, *, backward: bool
    ) -> Page[E]:
        """Give a page of the log up to *head*."""
        if backward:
            last = min(after - 1 if after else head, head)
            events = self.index.before(query, last, limit)
            full = len(events) == limit
            reached = events[-1].position if events else after
            return Page(events, reached if full else START, head)
        events = self.index.after(query, after, head, limit)
        full = len(events) == limit
        reached = (events[-1].position if events else after) if full else head
        return Page(events, max(reached, after), head)

    async def find(self, event_id: UUID) -> Recorded[E] | None:
        self.check_open()
        found = self.ids.get(event_id.int)
        return None if found is None or found.position > self.visible() else found

    async def head(self) -> int:
        self.check_open()
        return self.visible()

    async def changed(self, position: int, *, timeout: timedelta) -> None:
        self.check_open()
        await self.wakeup.wait(position, timeout)

    async def verify(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        self.closed = True
        self.wakeup.rouse()

    # Checkpoints and snapshots.

    async def load_checkpoint(self, name: str) -> Checkpoint | None:
        position = self.checkpoints.get(name)
        return None if position is None else Checkpoint(name, position)

    async def delete_checkpoint(self, name: str) -> None:
        await self.line.free()
        self.checkpoints.pop(name, None)

    async def load_snapshot(self, name: str) -> Snapshot[bytes] | None:
        return self.snapshots.get(name)

    async def delete_snapshot(self, name: str) -> None:
        await self.line.free()
        self.snapshots.pop(name, None)

    async def save(self, change: Also) -> None:
        await self.line.free()
        self.check_open()
        self.check((change,))
        self.change(change)


def unconditional(write: Write[E]) -> Write[E]:
    """Give a write that was judged already, and must not be judged again."""
    return Write(write.stream, write.events, ANY)


def _now() -> datetime:
    return datetime.now(UTC)


def memory_store(
    codec: Codec[E] | None = None, *, now: Callable[[], datetime] = _now
) -> EventStore[E]:
    """Make a store that lives as long as the process.

    Args:
        codec: names and checks the events, so that this store refuses what a durable
            one would; without one any immutable value is an event, named by its tag or
            class.
        now: the clock that leases expire by; its times have a zone.
    """
    known = cast("Codec[E]", value_codec()) if codec is None else codec
    memory = _Memory(known, now)
    return EventStore(
        append=memory.append,
        transaction=memory.transaction,
        read_stream=memory.read_stream,
        load_events=memory.load_events,
        read_all=memory.read_all,
        find=memory.find,
        head=memory.head,
        changed=memory.changed,
        checkpoints=Checkpoints(
            memory.load_checkpoint, memory.save, memory.delete_checkpoint
        ),
        snapshots=Snapshots(memory.load_snapshot, memory.save, memory.delete_snapshot),
        dead_letters=memory.records.dead_letters(memory.save),
        leases=memory.records.leases(),
        encode=memory.codec.encode,
        verify=memory.verify,
        close=memory.close,
    )
