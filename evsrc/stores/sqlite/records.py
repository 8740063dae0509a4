"""Keep dead letters and leases in the tables beside the events.

The functions run on a connection's own thread; the last two make them awaitable.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from uuid import UUID

from ...core.errors import CorruptionError, LeaseLostError
from ...core.event import StreamName
from ...ports import (
    DeadLetter,
    DeadLetters,
    DeadLetterStatus,
    Fence,
    Lease,
    Leases,
    SaveDeadLetter,
)
from .checks import row_crc
from .errors import checked_row
from .sql import sql

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_EVERY: Final = -1


class Run(Protocol):
    """Run a function on a connection's thread."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Give its result."""
        ...


# Dead letters.


def put_letter(db: sqlite3.Connection, letter: DeadLetter) -> None:
    """Store a letter, instead of the one with its key."""
    row = _packed(letter)
    db.execute(sql("put_dead_letter"), (*row, row_crc(row)))


def read_letter(
    db: sqlite3.Connection, subscription: str, event_id: UUID
) -> DeadLetter | None:
    """Give a letter.

    Raises:
        CorruptionError: its row is damaged.
    """
    key = (subscription, event_id.bytes)
    row = db.execute(sql("dead_letter"), key).fetchone()
    return None if row is None else _unpacked(row)


def list_letters(
    db: sqlite3.Connection, subscription: str | None, status: str | None, limit: int
) -> tuple[DeadLetter, ...]:
    """Give letters, the oldest first.

    Raises:
        CorruptionError: a row is damaged.
    """
    asked = (subscription, subscription, status, status, limit)
    return tuple(map(_unpacked, db.execute(sql("dead_letters"), asked).fetchall()))


def replace_letter(
    db: sqlite3.Connection, was: DeadLetter, letter: DeadLetter | None
) -> bool:
    """Replace or delete *was* if it is still stored exactly so."""
    with _transaction(db):
        if read_letter(db, was.subscription, was.event_id) != was:
            return False
        if letter is None:
            key = (was.subscription, was.event_id.bytes)
            db.execute(sql("delete_dead_letter"), key)
        else:
            put_letter(db, letter)
        return True


def _packed(letter: DeadLetter) -> tuple[Any, ...]:
    stream, resolved_at = letter.stream, letter.resolved_at
    return (
        letter.subscription,
        letter.event_id.bytes,
        letter.type,
        letter.data,
        letter.error,
        letter.stacktrace,
        letter.attempts,
        _micros(letter.first_failed_at),
        _micros(letter.last_failed_at),
        letter.status,
        None if resolved_at is None else _micros(resolved_at),
        letter.resolved_by,
        None if stream is None else stream.category,
        None if stream is None else stream.id,
        letter.position,
    )


def _unpacked(row: tuple[Any, ...]) -> DeadLetter:
    *values, crc = row
    checked_row("dead letter of", str(row[0]), values, crc)
    category, stream_id, position = values[12:]
    return DeadLetter(
        subscription=values[0],
        event_id=UUID(bytes=values[1]),
        type=values[2],
        data=values[3],
        error=values[4],
        stacktrace=values[5],
        attempts=values[6],
        first_failed_at=_time(values[7]),
        last_failed_at=_time(values[8]),
        status=values[9],
        resolved_at=None if values[10] is None else _time(values[10]),
        resolved_by=values[11],
        stream=None if category is None else StreamName(category, stream_id),
        position=position,
    )


# Leases.


class _Held(NamedTuple):
    owner: str | None
    token: int
    until: int


def lost_lease(db: sqlite3.Connection, fence: Fence) -> LeaseLostError | None:
    """Give the error for a token that is not the valid one.

    Raises:
        CorruptionError: the lease's row is damaged.
    """
    held = _held(db, fence.name)
    if held.owner is not None and held.token == fence.token:
        return None
    actual = None if held.owner is None else held.token
    return LeaseLostError(fence.name, fence.token, actual)


def acquire(
    db: sqlite3.Connection, name: str, owner: str, ttl: timedelta
) -> Lease | None:
    """Give the lease to *owner*, unless somebody else has it."""
    with _transaction(db):
        held, now = _held(db, name), _now()
        if held.owner not in (None, owner) and now < held.until:
            return None
        return _put_lease(db, name, owner, held.token + 1, now + ttl // _MICROSECOND)


def renew(db: sqlite3.Connection, lease: Lease, ttl: timedelta) -> Lease | None:
    """Let a lease last longer, unless it is lost."""
    with _transaction(db):
        held = _held(db, lease.name)
        if held.owner is None or held.token != lease.token:
            return None
        until = _now() + ttl // _MICROSECOND
        return _put_lease(db, lease.name, held.owner, held.token, until)


def release(db: sqlite3.Connection, lease: Lease) -> None:
    """Give a lease back; its token stays used."""
    with _transaction(db):
        held = _held(db, lease.name)
        if held.token == lease.token:
            row = (lease.name, None, held.token, held.until)
            db.execute(sql("put_lease"), (*row, row_crc(row)))


def _held(db: sqlite3.Connection, name: str) -> _Held:
    row = db.execute(sql("lease"), (name,)).fetchone()
    if row is None:
        if db.execute(sql("lease_without_index"), (name,)).fetchone():
            raise CorruptionError(f"the index of the stored lease {name!r} is damaged")
        return _Held(None, 0, 0)
    *held, crc = row
    checked_row("lease", name, (name, *held), crc)
    return _Held(*held)


def _put_lease(
    db: sqlite3.Connection, name: str, owner: str, token: int, until: int
) -> Lease:
    row = (name, owner, token, until)
    db.execute(sql("put_lease"), (*row, row_crc(row)))
    return Lease(name, owner, token, _time(until))


# All of it.


def verify_records(db: sqlite3.Connection) -> None:
    """Check every dead letter and lease.

    Raises:
        CorruptionError: a row is damaged.
    """
    list_letters(db, None, None, _EVERY)
    for (name,) in db.execute("SELECT name FROM evsrc_lease").fetchall():
        _held(db, name)


def dead_letters(
    writing: sqlite3.Connection,
    reading: sqlite3.Connection,
    write: Run,
    read: Run,
    save: Callable[[SaveDeadLetter], Awaitable[None]],
) -> DeadLetters:
    """Make the record of functions; *save* is the store's, which shares commits."""

    async def get(subscription: str, event_id: UUID) -> DeadLetter | None:
        return await read(lambda: read_letter(reading, subscription, event_id))

    async def list(
        subscription: str | None = None,
        *,
        status: DeadLetterStatus | None = None,
        limit: int = 100,
    ) -> tuple[DeadLetter, ...]:
        return await read(lambda: list_letters(reading, subscription, status, limit))

    async def update(letter: DeadLetter, was: DeadLetter) -> bool:
        return await write(lambda: replace_letter(writing, was, letter))

    async def delete(letter: DeadLetter) -> bool:
        return await write(lambda: replace_letter(writing, letter, None))

    return DeadLetters(get, list, save, update, delete)


def leases(db: sqlite3.Connection, write: Run) -> Leases:
    """Make the record of functions over the writing connection."""
    return Leases(
        lambda name, owner, ttl: write(lambda: acquire(db, name, owner, ttl)),
        lambda lease, ttl: write(lambda: renew(db, lease, ttl)),
        lambda lease: write(lambda: release(db, lease)),
    )


@contextmanager
def _transaction(db: sqlite3.Connection) -> Generator[None, None, None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _now() -> int:
    return time.time_ns() // 1000


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _time(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
