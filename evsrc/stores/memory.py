"""Keep events in memory: the store to learn from, and to test domains with.

Values are kept as they are, never copied. Every read goes through an index: a dict, or
a bisection; none scans the log. It belongs to one event loop.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Generic, cast
from uuid import UUID

from ..core.codec import Codec, value_codec
from ..core.errors import CheckpointError, DuplicateEventError, StoreClosedError
from ..core.event import E, Recorded, StreamName
from ..core.expectation import ALL, AnyQuery, Query, matches, satisfies
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
    Write,
)
from .records import MemoryRecords
from .wakeup import Wakeup

_position = attrgetter("position")
_event = attrgetter("event")


class _Memory(Generic[E]):
    """The log, and one index for each way to read it."""

    def __init__(self, codec: Codec[E]) -> None:
        self.codec = codec
        self.log: list[Recorded[E]] = []
        self.streams: defaultdict[StreamName, list[Recorded[E]]] = defaultdict(list)
        self.kinds: defaultdict[tuple[str, str], list[Recorded[E]]] = defaultdict(list)
        self.ids: dict[int, Recorded[E]] = {}  # by UUID.int, which hashes fast
        self.checkpoints: dict[str, int] = {}
        self.snapshots: dict[str, Snapshot[bytes]] = {}
        self.records = MemoryRecords(self.check_open)
        self.wakeup = Wakeup()
        self.closed = False

    def version(self, stream: StreamName) -> int:
        return len(self.streams.get(stream, ()))

    def check_open(self) -> None:
        if self.closed:
            raise StoreClosedError("memory")

    # Appending. Nothing here awaits, so an append is one step for everyone else.

    async def append(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        self.check_open()
        name = self.codec.name
        named = [[name(new.event) for new in write.events] for write in writes]
        conflict = self.conflict(writes)
        if conflict is not None:
            return self.repeated(writes) or conflict
        if not self.all_new(writes):
            repeated = self.repeated(writes)
            if repeated is None:
                raise self.duplicate(writes)
            return repeated
        if also:
            self.check(also)
        placed = tuple(map(self.place, writes, named))
        for change in also:
            self.change(change)
        self.wakeup.advance(len(self.log))
        return Appended(placed)

    def conflict(self, writes: Sequence[Write[E]]) -> Conflict | None:
        if len(writes) == 1:  # by far the most frequent
            (write,) = writes
            actual, expected = self.version(write.stream), write.expected
            if expected == actual or satisfies(expected, actual):
                return None
            return Conflict(write.stream, expected, actual)
        seen: dict[StreamName, int] = {}
        for write in writes:
            actual = seen.get(write.stream, self.version(write.stream))
            if not satisfies(write.expected, actual):
                return Conflict(write.stream, write.expected, actual)
            seen[write.stream] = actual + len(write.events)
        return None

    def repeated(self, writes: Sequence[Write[E]]) -> Appended | None:
        """Tell where these events already are, if all are, in the same places."""
        placed: list[Placed] = []
        for write in writes:
            found = [self.ids.get(new.id.int) for new in write.events]
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

    def all_new(self, writes: Sequence[Write[E]]) -> bool:
        """Tell whether no event id was ever used, nor is used twice here."""
        if len(writes) == 1 and len(writes[0].events) == 1:
            return writes[0].events[0].id.int not in self.ids
        ids = [new.id.int for write in writes for new in write.events]
        return self.ids.keys().isdisjoint(ids) and len(set(ids)) == len(ids)

    def duplicate(self, writes: Sequence[Write[E]]) -> DuplicateEventError:
        seen = set(self.ids)
        for write in writes:
            for new in write.events:
                if new.id.int in seen:
                    return DuplicateEventError(new.id, write.stream)
                seen.add(new.id.int)
        raise AssertionError("unreachable: there is a duplicate")

    def place(self, write: Write[E], names: list[str]) -> Placed:
        stream, name, log = self.streams[write.stream], write.stream, self.log
        at = time.time_ns() // 1000
        version, position = len(stream), len(log)
        first, last_type = position + 1, names[0]
        kind = self.kinds[name.category, last_type]
        for new, type in zip(write.events, names, strict=True):
            if type != last_type:
                kind, last_type = self.kinds[name.category, type], type
            version += 1
            position += 1
            recorded = Recorded(
                new.event, type, name, version, position, new.id, new.metadata, at
            )
            stream.append(recorded)
            kind.append(recorded)
            self.ids[new.id.int] = recorded
            log.append(recorded)
        return Placed(name, version, first, position)

    def check(self, also: Sequence[Also]) -> None:
        for change in also:
            match change:
                case SaveCheckpoint(name, _, after) if after is not None:
                    actual = self.checkpoints.get(name, START)
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

    # Reading.

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after: int = 0,
        limit: int | None = None,
        backward: bool = False,
    ) -> Page[E]:
        self.check_open()
        recorded = self.streams.get(stream, [])
        count = len(recorded) if limit is None else limit
        if backward:
            end = len(recorded) if after == 0 else min(after - 1, len(recorded))
            events = tuple(reversed(recorded[max(0, end - count) : end]))
        else:
            events = tuple(recorded[after : after + count])
        reached = events[-1].version if events else after
        return Page(events, reached, len(recorded))

    async def load_events(self, stream: StreamName, *, after: int = 0) -> Loaded[E]:
        self.check_open()
        recorded = self.streams.get(stream)
        if recorded is None:
            return Loaded((), 0)
        tail = recorded[after:] if after else recorded
        return Loaded(list(map(_event, tail)), len(recorded))

    async def read_all(
        self, query: AnyQuery = ALL, *, after: int = START, limit: int = 1000
    ) -> Page[E]:
        self.check_open()
        head = len(self.log)
        if isinstance(query, Query):
            kinds = [kind for key, kind in self.kinds.items() if matches(query, *key)]
            pages = (_after(kind, after, limit) for kind in kinds)
            events = tuple(islice(merge(*pages, key=_position), limit))
        else:
            events = tuple(self.log[after : after + limit])
        full = len(events) == limit
        reached = (events[-1].position if events else after) if full else head
        return Page(events, max(reached, after), head)

    async def find(self, event_id: UUID) -> Recorded[E] | None:
        self.check_open()
        return self.ids.get(event_id.int)

    async def head(self) -> int:
        self.check_open()
        return len(self.log)

    async def changed(self, position: int, *, timeout: timedelta) -> None:
        self.check_open()
        await self.wakeup.wait(position, timeout)

    async def verify(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        self.closed = True
        self.wakeup.advance(len(self.log))

    # Checkpoints and snapshots.

    async def load_checkpoint(self, name: str) -> Checkpoint | None:
        position = self.checkpoints.get(name)
        return None if position is None else Checkpoint(name, position)

    async def delete_checkpoint(self, name: str) -> None:
        self.checkpoints.pop(name, None)

    async def load_snapshot(self, name: str) -> Snapshot[bytes] | None:
        return self.snapshots.get(name)

    async def delete_snapshot(self, name: str) -> None:
        self.snapshots.pop(name, None)

    async def save(self, change: Also) -> None:
        self.check_open()
        self.check((change,))
        self.change(change)


def _after(recorded: list[Recorded[E]], after: int, limit: int) -> list[Recorded[E]]:
    start = bisect_right(recorded, after, key=_position)
    return recorded[start : start + limit]


def memory_store(codec: Codec[E] | None = None) -> EventStore[E]:
    """Make a store that lives as long as the process.

    Args:
        codec: names and checks the events, so that this store refuses what a durable
            one would; without one any immutable value is an event, named by its tag or
            class.
    """
    memory = _Memory(cast("Codec[E]", value_codec()) if codec is None else codec)
    return EventStore(
        append=memory.append,
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
        verify=memory.verify,
        close=memory.close,
    )
