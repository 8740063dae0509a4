"""Show what stands beside events as rows of plain values, with checksums. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID
from zlib import crc32

import msgspec

from ..core.errors import CorruptionError
from ..core.event import StreamName
from ..ports import DeadLetter, Lease

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_encode: Final = msgspec.json.Encoder().encode


LETTER: Final = (
    "subscription",
    "event_id",
    "type",
    "data",
    "error",
    "stacktrace",
    "attempts",
    "first_failed_at",
    "last_failed_at",
    "status",
    "resolved_at",
    "resolved_by",
    "category",
    "stream_id",
    "position",
    "crc",
)
"""The columns of a dead letter."""


class Held(NamedTuple):
    """What is stored of a lease; nobody has it if there is no owner."""

    owner: str | None
    token: int
    until: int


NOT_HELD: Final = Held(None, 0, 0)


def row_crc(row: Sequence[object]) -> int:
    """Check a row whose speed does not matter, by all its values."""
    return crc32(_encode(row))


def number_crc(name: str, number: int) -> int:
    """Check a number that stands alone: a checkpoint's position, a log's head."""
    return crc32(f"{name}/{number}".encode())


def snapshot_crc(name: str, version: int, schema: int, state: bytes) -> int:
    """Check a snapshot's row."""
    return crc32(state, crc32(f"{name}/{version}/{schema}".encode()))


def checked_row(what: str, name: str, row: Sequence[object], crc: object) -> None:
    """Refuse a row whose checksum does not hold.

    Raises:
        CorruptionError: it does not.
    """
    if row_crc(row) != crc:
        raise CorruptionError(f"the stored {what} {name!r} is damaged")


def micros(at: datetime) -> int:
    """Give a time as microseconds since 1970 in UTC."""
    return (at - _EPOCH) // _MICROSECOND


def time_of(micros: int) -> datetime:
    """Give the time of a number of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=micros)


def lease_of(row: Sequence[Any], now: int) -> Lease | None:
    """Give the lease of a row, or None if nobody has it *now*; last is its checksum.

    Raises:
        CorruptionError: the checksum does not hold.
    """
    *values, crc = row
    name, owner, token, until = values
    checked_row("lease", str(name), values, crc)
    return Lease(name, owner, token, time_of(until)) if owner and now < until else None


def pack_letter(letter: DeadLetter) -> tuple[Any, ...]:
    """Give a letter as a row, without its checksum."""
    stream, resolved_at = letter.stream, letter.resolved_at
    return (
        letter.subscription,
        letter.event_id.bytes,
        letter.type,
        letter.data,
        letter.error,
        letter.stacktrace,
        letter.attempts,
        micros(letter.first_failed_at),
        micros(letter.last_failed_at),
        letter.status,
        None if resolved_at is None else micros(resolved_at),
        letter.resolved_by,
        None if stream is None else stream.category,
        None if stream is None else stream.id,
        letter.position,
    )


def unpack_letter(row: Sequence[Any]) -> DeadLetter:
    """Give the letter of a row; its checksum is the last value.

    Raises:
        CorruptionError: the checksum does not hold.
    """
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
        first_failed_at=time_of(values[7]),
        last_failed_at=time_of(values[8]),
        status=values[9],
        resolved_at=None if values[10] is None else time_of(values[10]),
        resolved_by=values[11],
        stream=None if category is None else StreamName(category, stream_id),
        position=position,
    )
