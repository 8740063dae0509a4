"""Compute the checksums that make changed bytes visible.

An event's row has two: `crc` covers what folding needs (stream, version, type, data),
`seal` the rest (id, metadata, time, position). The client makes CRC-32 of the bytes;
the database adds the numbers that only it knows, modulo a prime, so that no change of
up to four bytes in one of them cancels out, and for `damaged_row` takes off those that
it finds. Both are stored 2**31 lower, to fit an int. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import repeat
from operator import add, mod, mul, sub
from typing import Final
from zlib import crc32

_FACTOR: Final = 1000003
_PRIME: Final = 4294967291
_OFFSET: Final = 2**31
_LOWERED: Final = 2 * _OFFSET % _PRIME  # by what crc and seal together are stored lower


@lru_cache(maxsize=10_000)
def stream_salt(category: str, id: str) -> int:
    """Give the part of a checksum that is the same for a whole stream."""
    return crc32(f"{category}\0{id}".encode())


@lru_cache(maxsize=10_000)
def type_salt(type: str) -> int:
    """Give the part of a checksum that is the same for one event type."""
    return crc32(b"type", crc32(type.encode()))


def tag_key(tag: str) -> bytes:
    """Give what a tag is indexed by: 128 bits, no two tags will ever share them."""
    return sha256(tag.encode()).digest()[:16]


def content_sums(
    salts: Iterable[int], types: Iterable[int], data: Iterable[bytes]
) -> Iterator[int]:
    """Sum up what folding needs, but for the version; both salts as above."""
    return map(crc32, data, map(add, salts, types))


def rest_sums(ids: Iterable[bytes], metas: Sequence[bytes | None]) -> Iterator[int]:
    """Sum up the rest of each event, but for its time and position."""
    sums = map(crc32, ids)
    if not any(metas):
        return sums
    return map(crc32, [meta or b"" for meta in metas], sums)


def crcs(
    salts: Iterable[int],
    types: Iterable[int],
    versions: Iterable[int],
    data: Iterable[bytes],
) -> list[int]:
    """Compute the crc of many events, without a Python loop."""
    sums = content_sums(salts, types, data)
    return _stored(map(add, sums, map(mul, versions, repeat(_FACTOR))))


def damaged_row(
    salts: Iterable[int],
    data: Iterable[bytes],
    ids: Iterable[bytes],
    metas: Sequence[bytes | None],
    stored: Iterable[int],
) -> int | None:
    """Hold events against what crc and seal say; give the first that differs.

    Each salt is that of a stream and that of a type together. *stored* is the sum of
    crc and seal, less what the row's version, position and time add to it.
    """
    sums = map(add, map(crc32, data, salts), rest_sums(ids, metas))
    over = list(map(sub, sums, stored))
    # they differ by multiples of the prime, so that there are few to look at
    wrong = {each for each in set(over) if each % _PRIME != _LOWERED}
    return min(map(over.index, wrong), default=None)


def _stored(sums: Iterable[int]) -> list[int]:
    return list(map(sub, map(mod, sums, repeat(_PRIME)), repeat(_OFFSET)))
