"""Keep dead letters and leases in the tables beside the events.

The functions run on a connection's own thread; the last two make them awaitable.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, Protocol, TypeVar
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
from ..rows import (
    NOT_HELD,
    Held,
    checked_row,
    lease_of,
    pack_letter,
    row_crc,
    time_of,
    unpack_letter,
)
from .sql import sql

T = TypeVar("T")

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
    row = pack_letter(letter)
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
    return None if row is None else unpack_letter(row)


def list_letters(
    db: sqlite3.Connection,
    subscription: str | None,
    status: str | None,
    stream: StreamName | None,
    limit: int,
) -> tuple[DeadLetter, ...]:
    """Give letters, the oldest first; those of one stream by position.

    Raises:
        CorruptionError: a row is damaged.
    """
    asked = {
        "subscription": subscription,
        "status": status,
        "category": None if stream is None else stream.category,
        "stream_id": None if stream is None else stream.id,
        "limit": limit,
    }
    return tuple(map(unpack_letter, db.execute(sql("dead_letters"), asked).fetchall()))


def letter_streams(db: sqlite3.Connection, name: str) -> dict[StreamName, int]:
    """Give the streams with unresolved letters, and where the first of each is."""
    rows = db.execute(sql("dead_letter_streams"), (name,)).fetchall()
    return {StreamName(category, id): first for category, id, first in rows}


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


# Leases.


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


def list_held(db: sqlite3.Connection, prefix: str) -> tuple[Lease, ...]:
    """Give the leases that somebody has.

    Raises:
        CorruptionError: a row is damaged.
    """
    rows, now = db.execute(sql("leases"), (prefix, prefix)).fetchall(), _now()
    return tuple(lease for row in rows if (lease := lease_of(row, now)) is not None)


def _held(db: sqlite3.Connection, name: str) -> Held:
    row = db.execute(sql("lease"), (name,)).fetchone()
    if row is None:
        if db.execute(sql("lease_without_index"), (name,)).fetchone():
            raise CorruptionError(f"the index of the stored lease {name!r} is damaged")
        return NOT_HELD
    *held, crc = row
    checked_row("lease", name, (name, *held), crc)
    return Held(*held)


def _put_lease(
    db: sqlite3.Connection, name: str, owner: str, token: int, until: int
) -> Lease:
    row = (name, owner, token, until)
    db.execute(sql("put_lease"), (*row, row_crc(row)))
    return Lease(name, owner, token, time_of(until))


# All of it.


def verify_records(db: sqlite3.Connection) -> None:
    """Check every dead letter and lease.

    Raises:
        CorruptionError: a row is damaged.
    """
    list_letters(db, None, None, None, _EVERY)
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
        stream: StreamName | None = None,
        limit: int = 100,
    ) -> tuple[DeadLetter, ...]:
        return await read(
            lambda: list_letters(reading, subscription, status, stream, limit)
        )

    async def update(letter: DeadLetter, was: DeadLetter) -> bool:
        return await write(lambda: replace_letter(writing, was, letter))

    async def delete(letter: DeadLetter) -> bool:
        return await write(lambda: replace_letter(writing, letter, None))

    async def streams(subscription: str) -> dict[StreamName, int]:
        return await read(lambda: letter_streams(reading, subscription))

    return DeadLetters(get, list, save, update, delete, streams)


def leases(
    db: sqlite3.Connection, reading: sqlite3.Connection, write: Run, read: Run
) -> Leases:
    """Make the record of functions."""
    return Leases(
        lambda name, owner, ttl: write(lambda: acquire(db, name, owner, ttl)),
        lambda lease, ttl: write(lambda: renew(db, lease, ttl)),
        lambda lease: write(lambda: release(db, lease)),
        lambda prefix: read(lambda: list_held(reading, prefix)),
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
