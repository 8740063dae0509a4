"""Event stores as classes, over the records of the core."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from typing import Final, Literal, Protocol, Self
from uuid import UUID

from msgspec import Struct

from ..core.errors import (
    AggregateIdMismatchError,
    AggregateTypeMismatchError,
    OptimisticLockError,
)
from ..core.event import Recorded, StreamName
from ..core.expectation import (
    ALL,
    STREAM_EXISTS,
    AnyQuery,
    Expected,
    Query,
    check_expected,
)
from ..ports import Appended, Conflict, Write
from ..ports import EventStore as Record
from .codec import domain_codec, enveloped
from .events import DomainEvent, EventRegistry, default_registry

_PAGE: Final = 1000


class ExpectedVersion(IntEnum):
    """The expected versions that are not a plain number."""

    ANY = -1
    NO_STREAM = 0
    STREAM_EXISTS = -2


class ReadDirection(Enum):
    """Which way to read a stream."""

    FORWARD = "forward"
    BACKWARD = "backward"


class StoredEvent(Struct, frozen=True):
    """An event and where it is stored."""

    event: DomainEvent
    stream_id: str
    stream_position: int
    global_position: int
    stored_at: datetime

    @property
    def event_id(self) -> UUID:
        """The event's id."""
        return self.event.event_id

    @property
    def event_type(self) -> str:
        """The event's stored name."""
        return self.event.event_type

    @property
    def aggregate_id(self) -> UUID:
        """The aggregate that it belongs to."""
        return self.event.aggregate_id

    @property
    def aggregate_type(self) -> str:
        """The type of that aggregate."""
        return self.event.aggregate_type


class ReadOptions(Struct, frozen=True):
    """What to read.

    Args:
        direction: of a stream; the whole log is read forward only.
        from_position: events after it (going backward: before it; -1: from the end).
        limit: how many at most.
        from_timestamp, to_timestamp: bounds of when the events were stored, inclusive.
        tenant_id: events of one tenant only.
    """

    direction: ReadDirection = ReadDirection.FORWARD
    from_position: int = 0
    limit: int | None = None
    from_timestamp: datetime | None = None
    to_timestamp: datetime | None = None
    tenant_id: UUID | None = None

    def __post_init__(self) -> None:
        if self.from_position < -1:
            raise ValueError(f"from_position must be >= -1, not {self.from_position}")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit must be >= 0, not {self.limit}")

    def admits(self, stored: StoredEvent) -> bool:
        """Tell whether an event is within the bounds."""
        return (
            (self.from_timestamp is None or stored.stored_at >= self.from_timestamp)
            and (self.to_timestamp is None or stored.stored_at <= self.to_timestamp)
            and (self.tenant_id is None or stored.event.tenant_id == self.tenant_id)
        )


class EventStream(Struct, frozen=True):
    """The events of one aggregate, and the version of its stream."""

    aggregate_id: UUID
    aggregate_type: str
    events: list[DomainEvent] = []
    version: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there are no events here."""
        return not self.events

    @property
    def latest_event(self) -> DomainEvent | None:
        """The last event here."""
        return self.events[-1] if self.events else None

    @classmethod
    def empty(cls, aggregate_id: UUID, aggregate_type: str) -> EventStream:
        """Give a stream without events."""
        return cls(aggregate_id, aggregate_type)


class AppendResult(Struct, frozen=True):
    """What an append led to; `global_position` is that of the last event."""

    success: bool
    new_version: int
    global_position: int = 0
    conflict: bool = False

    @classmethod
    def successful(cls, new_version: int, global_position: int = 0) -> AppendResult:
        """Give the result of an append that worked."""
        return cls(True, new_version, global_position)

    @classmethod
    def conflicted(cls, current_version: int) -> AppendResult:
        """Give the result of an append that lost a race."""
        return cls(False, current_version, conflict=True)


class EventPublisher(Protocol):
    """Whatever is told about events after they were saved."""

    async def publish(self, events: list[DomainEvent]) -> None:
        """Tell about *events*."""
        ...


class EventStore(ABC):
    """What the stores of the facade have in common; `core()` is the record below."""

    def __init__(self, event_registry: EventRegistry | None) -> None:
        self.event_registry: Final = event_registry or default_registry
        self._record: Record[DomainEvent] | None = None
        self._opening = asyncio.Lock()

    @abstractmethod
    async def _open(self) -> Record[DomainEvent]: ...

    async def core(self) -> Record[DomainEvent]:
        """Give the core's record of this store, opened if need be."""
        if self._record is None:
            async with self._opening:
                if self._record is None:
                    self._record = await self._open()
        return self._record

    async def use(
        self, middleware: Callable[[Record[DomainEvent]], Record[DomainEvent]]
    ) -> None:
        """Have what this store does from now on go through *middleware*.

        That gives the core's record with some functions replaced, as
        `evsrc.telemetry.traced` does.
        """
        self._record = middleware(await self.core())

    async def append_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str,
        events: Sequence[DomainEvent],
        expected_version: int,
    ) -> AppendResult:
        """Append events to one aggregate's stream; they are numbered by the stream.

        No events: a success that does nothing. *expected_version* is that of the
        stream, or an `ExpectedVersion`.

        Raises:
            OptimisticLockError: the stream is at another version.
            AggregateIdMismatchError, AggregateTypeMismatchError: an event names another
                aggregate.
            DuplicateEventError: an event id is used elsewhere; repeating a whole append
                is a success that writes nothing.
            InvalidEventError, EventTypeNotFoundError: an event cannot be stored.
            InvalidExpectedVersionError: no such version.
        """
        if expected_version not in (ExpectedVersion.ANY, ExpectedVersion.STREAM_EXISTS):
            check_expected(expected_version)
        record, stream = await self.core(), stream_of(aggregate_id, aggregate_type)
        version = int(expected_version)
        if expected_version < 0 or not events:
            version = (await record.read_stream(stream, limit=0)).head
        if not events:
            return AppendResult.successful(version)
        _check_owner(aggregate_id, aggregate_type, events)
        while True:
            expected: Expected = version
            if not version and expected_version == ExpectedVersion.STREAM_EXISTS:
                expected = STREAM_EXISTS
            new = [
                enveloped(
                    e if e.aggregate_version == n else e.with_aggregate_version(n)
                )
                for n, e in enumerate(events, version + 1)
            ]
            match await record.append(Write(stream, new, expected)):
                case Appended() as done:
                    return AppendResult.successful(done.version, done.position)
                case Conflict(_, _, actual) if expected_version < 0 and actual:
                    version = actual  # any version is welcome: number them again
                case Conflict(_, _, actual):
                    raise OptimisticLockError(aggregate_id, expected_version, actual)

    async def get_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        from_timestamp: datetime | None = None,
        to_timestamp: datetime | None = None,
    ) -> EventStream:
        """Read an aggregate's events after a version, and its stream's version.

        The timestamps are bounds of when the events occurred, inclusive. Without
        *aggregate_type* the whole log is searched for it.
        """
        record = await self.core()
        if aggregate_type is None:
            aggregate_type = await self._type_of(aggregate_id)
            if aggregate_type is None:
                return EventStream(aggregate_id, "Unknown")
        loaded = await record.load_events(
            stream_of(aggregate_id, aggregate_type), after=from_version
        )
        events = [
            event
            for event in loaded.events
            if (from_timestamp is None or event.occurred_at >= from_timestamp)
            and (to_timestamp is None or event.occurred_at <= to_timestamp)
        ]
        return EventStream(aggregate_id, aggregate_type, events, loaded.version)

    async def get_events_by_type(
        self,
        aggregate_type: str,
        tenant_id: UUID | None = None,
        from_timestamp: datetime | None = None,
    ) -> list[DomainEvent]:
        """Read all events of one type of aggregate, in the order they were recorded.

        Of one tenant only, if it is given, and that occurred after *from_timestamp*.
        """
        query = Query.of(categories=[aggregate_type])
        return [
            recorded.event
            async for recorded in self._log(query, 0)
            if (tenant_id is None or recorded.event.tenant_id == tenant_id)
            and (from_timestamp is None or recorded.event.occurred_at > from_timestamp)
        ]

    async def event_exists(self, event_id: UUID) -> bool:
        """Tell whether an event is stored."""
        return await (await self.core()).find(event_id) is not None

    async def get_stream_version(self, aggregate_id: UUID, aggregate_type: str) -> int:
        """Give a stream's version, without reading it; 0: it has no events."""
        stream = stream_of(aggregate_id, aggregate_type)
        return (await (await self.core()).read_stream(stream, limit=0)).head

    async def get_global_position(self) -> int:
        """Give the last position of the log; 0: it is empty."""
        return await (await self.core()).head()

    async def read_stream(
        self, stream_id: str, options: ReadOptions | None = None
    ) -> AsyncIterator[StoredEvent]:
        """Read one stream ("{aggregate_id}:{aggregate_type}"), a page at a time.

        Raises:
            ValueError: *stream_id* has another form.
        """
        options = options or ReadOptions()
        aggregate_id, colon, aggregate_type = stream_id.partition(":")
        if not colon:
            raise ValueError(f"stream id {stream_id!r} is not 'aggregate_id:type'")
        backward = options.direction is ReadDirection.BACKWARD
        record, stream = await self.core(), StreamName(aggregate_type, aggregate_id)
        after = max(options.from_position, 0)
        left = options.limit
        while left is None or left > 0:
            page = await record.read_stream(
                stream, after=after, limit=_PAGE, backward=backward
            )
            for recorded in page.events:
                stored = stored_event(recorded)
                if options.admits(stored) and (left is None or left > 0):
                    left = None if left is None else left - 1
                    yield stored
            if len(page.events) < _PAGE or (backward and page.reached == 1):
                return
            after = page.reached

    async def read_all(
        self, options: ReadOptions | None = None
    ) -> AsyncIterator[StoredEvent]:
        """Read the log, a page at a time, up to where it ended when the read began.

        Raises:
            ValueError: backward.
        """
        options = options or ReadOptions()
        if options.direction is ReadDirection.BACKWARD or options.from_position < 0:
            raise ValueError("the whole log is read forward only")
        left = options.limit
        async for recorded in self._log(ALL, options.from_position):
            if left == 0:
                return
            stored = stored_event(recorded)
            if options.admits(stored):
                left = None if left is None else left - 1
                yield stored

    async def _log(
        self, query: AnyQuery, after: int
    ) -> AsyncIterator[Recorded[DomainEvent]]:
        record = await self.core()
        end = await record.head()
        while after < end:
            page = await record.read_all(query, after=after, limit=_PAGE)
            for recorded in page.events:
                if recorded.position > end:
                    return
                yield recorded
            after = page.reached

    async def _type_of(self, aggregate_id: UUID) -> str | None:
        async for recorded in self._log(ALL, 0):
            if recorded.stream.id == str(aggregate_id):
                return recorded.stream.category
        return None

    async def initialize(self) -> None:
        """Open the store now rather than at its first use."""
        await self.core()

    async def close(self) -> None:
        """Close the store; what was acknowledged stays."""
        if self._record is not None:
            await self._record.close()

    async def __aenter__(self) -> Self:
        await self.core()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class InMemoryEventStore(EventStore):
    """Events in memory, as long as the process lives; for tests and prototypes.

    It keeps the events themselves, and gives them out again. They are frozen; a dict or
    a list inside of one is not, and whoever changes that changes what is recorded here.
    (The other stores keep bytes.) Use tuples, and `with_metadata`.
    """

    def __init__(self, *, event_registry: EventRegistry | None = None) -> None:
        super().__init__(event_registry)

    async def _open(self) -> Record[DomainEvent]:
        from ..stores.memory import memory_store  # noqa: PLC0415 - only if it is used

        return memory_store(domain_codec(self.event_registry))

    async def clear(self) -> None:
        """Forget all events."""
        self._record = None

    async def get_all_events(self) -> list[DomainEvent]:
        """Give all events, in the order they were recorded."""
        return [recorded.event async for recorded in self._log(ALL, 0)]

    async def get_event_count(self) -> int:
        """Tell how many events there are."""
        return await self.get_global_position()

    async def get_aggregate_ids(self) -> set[UUID]:
        """Give the ids of all aggregates that have events."""
        return {event.aggregate_id for event in await self.get_all_events()}


class SQLiteEventStore(EventStore):
    """Events in an SQLite file, or with ":memory:" as long as the store is open.

    Args:
        database: the file; its directory must exist.
        event_registry: names the events; by default the one of `register_event`.
        wal_mode: evsrc always writes ahead; False is refused.
        busy_timeout: how many milliseconds to wait for another process that writes.
        synchronous: FULL: an acknowledged append survives power loss. NORMAL: it
            survives the end of the process, a power loss may take the last ones.
    """

    def __init__(
        self,
        database: str,
        event_registry: EventRegistry | None = None,
        *,
        wal_mode: bool = True,
        busy_timeout: int = 5000,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
    ) -> None:
        super().__init__(event_registry)
        if not wal_mode:
            raise ValueError(
                "wal_mode=False: readers would wait for the writer; use WAL"
            )
        self.database = database
        self.wal_mode = wal_mode
        self.busy_timeout = busy_timeout
        self.synchronous: Literal["FULL", "NORMAL"] = synchronous
        self.is_connected = False

    async def _open(self) -> Record[DomainEvent]:
        from ..stores.sqlite import sqlite_store  # noqa: PLC0415 - loads the driver

        record = await sqlite_store(
            self.database,
            domain_codec(self.event_registry),
            synchronous=self.synchronous,
            busy_timeout=timedelta(milliseconds=self.busy_timeout),
        )
        self.is_connected = True
        return record

    async def close(self) -> None:
        """Close the store; what was acknowledged stays."""
        self.is_connected = False
        await super().close()


def stream_of(aggregate_id: UUID, aggregate_type: str) -> StreamName:
    """Give the name of an aggregate's stream."""
    return StreamName(aggregate_type, str(aggregate_id))


def stored_event(recorded: Recorded[DomainEvent]) -> StoredEvent:
    """Give a recorded event as the facade shows it."""
    return StoredEvent(
        recorded.event,
        f"{recorded.stream.id}:{recorded.stream.category}",
        recorded.version,
        recorded.position,
        recorded.recorded_at,
    )


def _check_owner(
    aggregate_id: UUID, aggregate_type: str, events: Sequence[DomainEvent]
) -> None:
    for event in events:
        if event.aggregate_id != aggregate_id:
            raise AggregateIdMismatchError(
                type(event), event.aggregate_id, aggregate_type, aggregate_id
            )
        if event.aggregate_type != aggregate_type:
            raise AggregateTypeMismatchError(aggregate_type, event.aggregate_type)
