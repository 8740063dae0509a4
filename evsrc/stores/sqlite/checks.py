"""Compute the keys and checksums that make changed bytes visible.

`crc` covers what folding needs (stream, version, type, data), `seal` the rest of the
row on top of it. Both are CRC-32; the small numbers go in as its starting value. No I/O
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import repeat
from operator import add, mod, mul
from typing import Final
from zlib import crc32

_VERSION: Final = 2654435761
_TYPE: Final = 2246822519
_POSITION: Final = 3266489917
_PRIME: Final = 4294967291


def stream_key(category: str, id: str) -> int:
    """Hash a stream's name to 63 bits."""
    digest = blake2b(f"{category}\0{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream_salt(category: str, id: str) -> int:
    """Give the part of a payload's checksum that is the same for a whole stream."""
    return crc32(f"{category}\0{id}".encode())


def stream_crc(key: int, category: str, id: str, version: int) -> int:
    """Check a stream's row."""
    return crc32(f"{key}/{version}/{category}\0{id}".encode())


def name_crc(key: int, name: str) -> int:
    """Check a name's row."""
    return crc32(f"{key}/{name}".encode())


def event_crc(salt: int, version: int, type: int, data: bytes) -> int:
    """Check what folding needs of one event."""
    return crc32(data, salt + version * _VERSION + type * _TYPE)


def event_crcs(
    salts: Iterable[int],
    versions: Iterable[int],
    types: Iterable[int],
    data: Iterable[bytes],
) -> list[int]:
    """Compute `event_crc` for many events, without a Python loop."""
    placed = map(mul, versions, repeat(_VERSION))
    typed = map(mul, types, repeat(_TYPE))
    return list(map(crc32, data, map(add, map(add, placed, typed), salts)))


def stream_crcs(
    salt: int, first: int, types: Sequence[int], data: Iterable[bytes]
) -> list[int]:
    """Compute `event_crc` for the events of one stream from version *first* on."""
    start, length = salt + first * _VERSION, len(types) * _VERSION
    if len(kinds := set(types)) == 1:
        start += kinds.pop() * _TYPE
        return list(map(crc32, data, range(start, start + length, _VERSION)))
    placed = range(start, start + length, _VERSION)
    return list(map(crc32, data, map(add, placed, map(mul, types, repeat(_TYPE)))))


def event_seal(crc: int, position: int, id: bytes, at: int, meta: bytes | None) -> int:
    """Check the rest of an event's row, on top of its crc."""
    return crc32(meta or b"", crc32(id, crc + position * _POSITION + at % _PRIME))


def event_seals(
    crcs: Iterable[int],
    positions: Iterable[int],
    ids: Iterable[bytes],
    times: Iterable[int],
    metas: Iterable[bytes],
) -> list[int]:
    """Compute `event_seal` for many events, without a Python loop."""
    placed = map(add, crcs, map(mul, positions, repeat(_POSITION)))
    seeds = map(add, placed, map(mod, times, repeat(_PRIME)))
    return list(map(crc32, metas, map(crc32, ids, seeds)))


def number_crc(name: str, number: int) -> int:
    """Check a number that stands alone: the log's head, a checkpoint's position."""
    return crc32(f"{name}/{number}".encode())


def snapshot_crc(name: str, version: int, schema: int, state: bytes) -> int:
    """Check a snapshot's row."""
    return crc32(state, crc32(f"{name}/{version}/{schema}".encode()))
