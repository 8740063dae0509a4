"""Say what the rest of evsrc may ask of a store: callbacks, and records made of them.

A store is a frozen record of functions, so a cache, a tracer or a fault injector is
`dataclasses.replace(store, append=...)`. No I/O here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from msgspec import Struct
from msgspec.structs import force_setattr

from .core.codec import storable
from .core.errors import EmptyAppendError
from .core.event import E, NewEvent, Recorded, StreamName
from .core.expectation import ALL, AnyQuery, Expect, Expected, check_expected
from .core.snapshot import Snapshot

START: Final = 0
"""The position before the first event; a checkpoint that has not moved."""

RETIRED: Final = 2**63 - 1
"""The checkpoint of a projection that a rebuild has replaced: nobody can move it."""


class Write(Struct, Generic[E], frozen=True, gc=False):
    """What one append adds to one stream.

    Args:
        stream: where to.
        events: what, in order; at least one.
        expected: what the stream's version must be, or the condition over the whole
            log under which this is appended.

    Raises:
        EmptyAppendError: there are no events.
        InvalidExpectedVersionError: *expected* is neither.
    """

    stream: StreamName
    events: Sequence[NewEvent[E]]
    expected: Expected

    def __post_init__(self) -> None:
        expected = self.expected
        if type(expected) is not Expect and (type(expected) is not int or expected < 0):
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
    """Nothing was written: *stream* was expected at *expected*, it is at *actual*.

    Args:
        stream: where the refused write was to go.
        expected: what it expected. Of an `AppendCondition` the part that did not hold:
            its version, or (if that was right) the whole condition.
        actual: the stream's version; for a condition, the position of an event that
            stands against it.
    """

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


DeadLetterStatus: TypeAlias = Literal["failed", "retrying", "resolved"]


class DeadLetter(Struct, frozen=True, kw_only=True):
    """An event that a subscription could not handle, put aside with the reason.

    *subscription* and *event_id* are the key. Any text can be stored: what a database
    would refuse in *error*, *stacktrace* and *resolved_by* (NUL, lone surrogates) is
    escaped when the value is made.

    Args:
        subscription: whose.
        event_id: which event.
        type: the event's stored name.
        data: its payload, as it is stored.
        error: the last error's class and message.
        stacktrace: where it was raised.
        attempts: how often the event was tried in all.
        first_failed_at: when it was put aside for the first time.
        last_failed_at: when it was last.
        status: "failed"; "retrying": somebody has taken it to try again; "resolved".
        resolved_at: when it was resolved.
        resolved_by: who did.
        stream: the event's stream.
        position: where the log has it; START: not known.

    Raises:
        ValueError: a time without a zone.
    """

    subscription: str
    event_id: UUID
    type: str
    data: bytes
    error: str
    stacktrace: str | None = None
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    status: DeadLetterStatus = "failed"
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    stream: StreamName | None = None
    position: int = START

    def __post_init__(self) -> None:
        for at in (self.first_failed_at, self.last_failed_at, self.resolved_at):
            if at is not None and at.tzinfo is None:
                raise ValueError(f"a dead letter's times have a zone, {at!r} has none")
        for name in ("error", "stacktrace", "resolved_by"):
            text = getattr(self, name)
            if text is not None:
                force_setattr(self, name, storable(text))


class SaveDeadLetter(Struct, frozen=True):
    """Store a dead letter in the append's transaction.

    It replaces the one with the same key by its full value, whatever that was: the
    event failed (again), and no decision about an earlier failure may hide that.
    Whoever adds it again takes *first_failed_at* over from `DeadLetters.get`.
    """

    letter: DeadLetter


class Lease(Struct, frozen=True):
    """The right of *owner* to work under *name*, until it expires or is released.

    Args:
        name: what is leased, such as a subscription or one partition of it.
        owner: who has it; unique for each worker.
        token: grows with every acquisition, for ever: the later one is the right one.
        until: when others may take it, by the clock of the store.
    """

    name: str
    owner: str
    token: int
    until: datetime


class Fence(Struct, frozen=True):
    """Refuse the append, with a LeaseLostError, unless a lease is still ours.

    The *token* decides, not the time: a paused worker whose lease was taken by another
    has an old token, whatever its clock says; one whose lease has expired but was not
    taken may still commit. A released lease is nobody's. Until the transaction ends,
    nobody can acquire the lease.
    """

    name: str
    token: int


Also: TypeAlias = SaveCheckpoint | SaveSnapshot | SaveDeadLetter | Fence
"""What an append can write or check beside events, in the same transaction."""


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
        LeaseLostError: a lease in *also* is somebody else's by now.
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

    A reader that goes on at `Page.reached` misses nothing that is ever committed; the
    end is where `reached` is `head`, not where a page has no events.

    *backward* gives the events before *after* (START: from the end), newest first; it
    has come to the beginning when `reached` is START.
    """

    async def __call__(
        self,
        query: AnyQuery = ALL,
        *,
        after: int = START,
        limit: int = 1000,
        backward: bool = False,
    ) -> Page[E]:
        """Read up to *limit* events that match *query*."""
        ...


@dataclass(frozen=True, slots=True)
class Transaction(Generic[E]):
    """A transaction of the store that is open: what is done in it happens together.

    Args:
        append: like the store's. It is judged at once, on what the transaction has
            done so far, and tells versions and positions; nobody else sees them yet. A
            `Conflict` leaves the transaction usable. After an append that raised, it
            can only be rolled back.
        read_all: like the store's; it sees what the transaction has done so far (with
            concurrent ordering: the log ends where it is final).
        load_checkpoint: like `Checkpoints.load`, and it sees what the transaction did.
        load_snapshot: like `Snapshots.load`, likewise.
        connection: what your own SQL is run on: asyncpg's connection (PostgreSQL), a
            `SQLiteConnection`, or None (memory).
    """

    append: Append[E]
    read_all: ReadAll[E]
    load_checkpoint: Callable[[str], Awaitable[Checkpoint | None]]
    load_snapshot: Callable[[str], Awaitable[Snapshot[bytes] | None]]
    connection: Any


class BeginTransaction(Protocol[E]):
    """Open a transaction: `async with store.transaction() as tx:`.

    Leaving the block commits, as durably as an append; an exception or a cancellation
    rolls everything back. Readers see nothing of it, and nobody is woken, before the
    commit. Appends of the store itself wait until it ends (SQLite, memory: all of them;
    PostgreSQL: from the transaction's first append on), so be brief. Inside the block,
    append with `tx.append` alone.

    Raises:
        TransactionError: from the store's own `append` inside the block, which would
            wait for ever; from the block's end, if an append in it raised, or a
            statement has ended the transaction; from what is used after the end.
        StoreBusyError: another process held the lock for too long; nothing was written.
        AppendOutcomeUnknownError: the connection was lost at the commit.
        StoreError: the store could not; nothing was written.
    """

    def __call__(self) -> AbstractAsyncContextManager[Transaction[E]]:
        """Give the transaction's block."""
        ...


class FindEvent(Protocol[E]):
    """Find one event by its id."""

    async def __call__(self, event_id: UUID) -> Recorded[E] | None:
        """Give the event, or None."""
        ...


class AtHand(NamedTuple, Generic[E]):
    """What was committed just now, so that whoever waited for it need not read it.

    Args:
        read_all: gives the same page. A store whose `read_all` is another function,
            such as one that leaves events out, is to be read.
        page: every event from the one after the position that was waited at.
    """

    read_all: ReadAll[E]
    page: Page[E]


class Changed(Protocol[E]):
    """Return when something after *position* may be readable, or the time is over.

    It may give what came, or None: read then. Missing a wake-up costs latency only.
    """

    async def __call__(self, position: int, *, timeout: timedelta) -> AtHand[E] | None:
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


class ListDeadLetters(Protocol):
    """List dead letters, those that failed first (`first_failed_at`) first.

    Those of one *stream* are in the order of their positions.
    """

    async def __call__(
        self,
        subscription: str | None = None,
        *,
        status: DeadLetterStatus | None = None,
        stream: StreamName | None = None,
        limit: int = 100,
    ) -> tuple[DeadLetter, ...]:
        """List up to *limit* of one subscription, status and stream (None: of all)."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Events that were put aside.

    Args:
        get: the letter of a subscription and an event id, or None.
        list: several.
        save: puts one aside, durably; see `SaveDeadLetter`.
        update: `update(letter, was)` replaces *was* if it is still stored exactly so,
            and tells whether it was: of two workers that take or resolve one letter,
            one gets True; a failure that came in between stays. Both have one key.
        delete: forgets a letter if it is still stored exactly so, and tells whether it
            was.
        streams: those of which a subscription has letters that are not resolved, and
            the position of the first of these.
    """

    get: Callable[[str, UUID], Awaitable[DeadLetter | None]]
    list: ListDeadLetters
    save: Callable[[SaveDeadLetter], Awaitable[None]]
    update: Callable[[DeadLetter, DeadLetter], Awaitable[bool]]
    delete: Callable[[DeadLetter], Awaitable[bool]]
    streams: Callable[[str], Awaitable[Mapping[StreamName, int]]]


@dataclass(frozen=True, slots=True)
class Leases:
    """Who may work on what, of the workers that share the store.

    All times are read from the store's clock, never the worker's. Safety comes from
    the token (see `Fence`); the times only decide when others may take over.

    Args:
        acquire: `acquire(name, owner, ttl)` gives the lease, with a new token, if
            nobody has it, it has expired, or *owner* itself has it (its earlier token
            is lost then); None: somebody else has it.
        renew: `renew(lease, ttl)` gives the lease with a new end, counted from now;
            None: it is lost. One that has expired but was not taken is renewed.
        release: gives it back before its end; no effect if it is lost.
        list: those whose name starts with a prefix and that somebody has now: not
            released, and not over; by name.
    """

    acquire: Callable[[str, str, timedelta], Awaitable[Lease | None]]
    renew: Callable[[Lease, timedelta], Awaitable[Lease | None]]
    release: Callable[[Lease], Awaitable[None]]
    list: Callable[[str], Awaitable[tuple[Lease, ...]]]


@dataclass(frozen=True)
class EventStore(Generic[E]):
    """Everything a store does.

    `encode` gives an event's payload as the store keeps it, `head` the last position of
    the log (START: empty), `verify` checks every stored byte and says what is wrong
    (empty: nothing), `close` ends the store within moments, after the appends that are
    under way. *concurrent* tells that appends commit at the same time, so that an event
    may become visible after one with a higher position (readers wait for it).
    """

    append: Append[E]
    transaction: BeginTransaction[E]
    read_stream: ReadStream[E]
    load_events: LoadEvents[E]
    read_all: ReadAll[E]
    find: FindEvent[E]
    head: Callable[[], Awaitable[int]]
    changed: Changed[E]
    checkpoints: Checkpoints
    snapshots: Snapshots
    dead_letters: DeadLetters
    leases: Leases
    encode: Callable[[E], bytes]
    verify: Callable[[], Awaitable[tuple[str, ...]]]
    close: Callable[[], Awaitable[None]]
    concurrent: bool = field(default=False, kw_only=True)

    async def __aenter__(self) -> EventStore[E]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
