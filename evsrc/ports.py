"""Say what the rest of evsrc may ask of a store: callbacks, and records made of them.

A store is a frozen record of functions, so a cache, a tracer or a fault injector is
`dataclasses.replace(store, append=...)`. No I/O here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Generic, Protocol, TypeAlias
from uuid import UUID

from msgspec import Struct

from .core.errors import EmptyAppendError
from .core.event import E, NewEvent, Recorded, StreamName
from .core.expectation import ALL, AnyQuery, Expected, check_expected
from .core.snapshot import Snapshot

START: Final = 0
"""The position before the first event; a checkpoint that has not moved."""


class Write(Struct, Generic[E], frozen=True, gc=False):
    """What one append adds to one stream.

    Args:
        stream: where to.
        events: what, in order; at least one.
        expected: what the stream's version must be.

    Raises:
        EmptyAppendError: there are no events.
        InvalidExpectedVersionError: *expected* is no version.
    """

    stream: StreamName
    events: Sequence[NewEvent[E]]
    expected: Expected

    def __post_init__(self) -> None:
        expected = self.expected
        if type(expected) is not int or expected < 0:
            check_expected(expected)
        if not self.events:
            raise EmptyAppendError(f"nothing to append to stream '{self.stream}'")


class Placed(Struct, frozen=True, gc=False):
    """Where one write went: the stream's version after it, and its positions."""

    stream: StreamName
    version: int
    first_position: int
    last_position: int


class Appended(Struct, frozen=True, gc=False):
    """The append is recorded, as durably as the store was asked to.

    Args:
        placed: one for each write, in order.
        repeated: the same event ids were there already; nothing was written now.
    """

    placed: tuple[Placed, ...]
    repeated: bool = False

    @property
    def version(self) -> int:
        """The version of the (last) written stream."""
        return self.placed[-1].version

    @property
    def position(self) -> int:
        """The position of the last written event."""
        return self.placed[-1].last_position


class Conflict(Struct, frozen=True):
    """Nothing was written: *stream* was expected at *expected*, it is at *actual*."""

    stream: StreamName
    expected: Expected
    actual: int


class Page(Struct, Generic[E], frozen=True, gc=False):
    """A piece of a stream or of the log.

    Args:
        events: in order.
        reached: where to go on: everything asked for up to here has been returned.
        head: the stream's version, or the log's last position, in the same snapshot.
    """

    events: tuple[Recorded[E], ...]
    reached: int
    head: int


class Loaded(Struct, Generic[E], frozen=True, gc=False):
    """A stream's events without envelopes, and the version they lead to."""

    events: Sequence[E]
    version: int


class Checkpoint(Struct, frozen=True):
    """A subscription's progress: it has handled everything up to *position*."""

    name: str
    position: int


class SaveCheckpoint(Struct, frozen=True):
    """Move a checkpoint in the append's transaction.

    Args:
        name: the subscription.
        position: where to.
        after: where it must be now (START: not there yet), or the append is refused
            with a CheckpointError; None: wherever it is.
    """

    name: str
    position: int
    after: int | None = None


class SaveSnapshot(Struct, frozen=True):
    """Store a snapshot in the append's transaction."""

    name: str
    snapshot: Snapshot[bytes]


Also: TypeAlias = SaveCheckpoint | SaveSnapshot
"""What an append can write beside events, in the same transaction."""


class Append(Protocol[E]):
    """Record all writes together, or nothing.

    Each write's version is checked; the first that does not fit is the `Conflict`.
    Repeating the event ids of an earlier append to the same place is success, with the
    first positions. When this returns `Appended`, the events are there and durable. A
    cancelled caller's append happens wholly or not at all.

    Raises:
        DuplicateEventError: an event id is used elsewhere.
        InvalidEventError: an event's fields do not fit.
        EventTypeNotFoundError: an event's class is not known to the store's codec.
        CheckpointError: a checkpoint in *also* is not where it should be.
        StoreError: the store could not; nothing was written.
    """

    async def __call__(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        """Record *writes*, and what is *also* to be written with them."""
        ...


class ReadStream(Protocol[E]):
    """Read a stream's events after a version, in version order, a page at a time.

    *backward* gives the events before *after* (0: from the end), newest first.
    """

    async def __call__(
        self,
        stream: StreamName,
        *,
        after: int = 0,
        limit: int | None = None,
        backward: bool = False,
    ) -> Page[E]:
        """Read up to *limit* events (None: all)."""
        ...


class LoadEvents(Protocol[E]):
    """Read a whole stream after a version for folding: events, no envelopes."""

    async def __call__(self, stream: StreamName, *, after: int = 0) -> Loaded[E]:
        """Read *stream*; an unknown stream is empty and at version 0."""
        ...


class ReadAll(Protocol[E]):
    """Read the log after a position, in order; a page and its head are one snapshot.

    A reader that goes on at `Page.reached` misses nothing that is ever committed.
    """

    async def __call__(
        self, query: AnyQuery = ALL, *, after: int = START, limit: int = 1000
    ) -> Page[E]:
        """Read up to *limit* events that match *query*."""
        ...


class FindEvent(Protocol[E]):
    """Find one event by its id."""

    async def __call__(self, event_id: UUID) -> Recorded[E] | None:
        """Give the event, or None."""
        ...


class Changed(Protocol):
    """Return when something after *position* may be readable, or the time is over.

    Missing a wake-up costs latency only: callers read again in any case.
    """

    async def __call__(self, position: int, *, timeout: timedelta) -> None:
        """Wait for at most *timeout*."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where subscriptions are.

    Args:
        load: the checkpoint of a name, or None.
        save: moves it, durably. Raises CheckpointError if *after* is given and it is
            not there.
        delete: forgets it.
    """

    load: Callable[[str], Awaitable[Checkpoint | None]]
    save: Callable[[SaveCheckpoint], Awaitable[None]]
    delete: Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Folded states, by name; a torn one is None."""

    load: Callable[[str], Awaitable[Snapshot[bytes] | None]]
    save: Callable[[SaveSnapshot], Awaitable[None]]
    delete: Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class EventStore(Generic[E]):
    """Everything a store does.

    `head` gives the last position of the log (START: empty), `verify` checks every
    stored byte and says what is wrong (empty: nothing), `close` ends the store within
    moments, after the appends that are under way.
    """

    append: Append[E]
    read_stream: ReadStream[E]
    load_events: LoadEvents[E]
    read_all: ReadAll[E]
    find: FindEvent[E]
    head: Callable[[], Awaitable[int]]
    changed: Changed
    checkpoints: Checkpoints
    snapshots: Snapshots
    verify: Callable[[], Awaitable[tuple[str, ...]]]
    close: Callable[[], Awaitable[None]]

    async def __aenter__(self) -> EventStore[E]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
