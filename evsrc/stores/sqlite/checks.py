"""Compute the keys and checksums that make changed bytes visible.

An event's `envelope` ends in a checksum of its whole row. A stream's `content` covers
the types and data of all its events in order, so that folding checks them in one go and
reads nothing else of them. All are CRC-32. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import repeat
from struct import Struct
from typing import Any, Final
from zlib import crc32

_pack: Final = Struct("<16sqqqI").pack
_unpack: Final = Struct("<16sqqqI4x").iter_unpack
WHOLE: Final = 0x2144DF1C
"""The CRC-32 of whatever ends in its own CRC-32."""


def stream_key(category: str, id: str) -> int:
    """Hash a stream's name to 63 bits."""
    digest = blake2b(f"{category}\0{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def tag_key(tag: str) -> int:
    """Hash a tag to 63 bits. Two may have one key: the index gives candidates."""
    digest = blake2b(tag.encode(), digest_size=8, person=b"tag").digest()
    return int.from_bytes(digest, "big") >> 1


def stream_crc(key: int, category: str, id: str, version: int, content: int) -> int:
    """Check a stream's row."""
    return crc32(f"{key}/{version}/{content}/{category}\0{id}".encode())


def content_crc(types: Sequence[int], data: Sequence[bytes], before: int) -> int:
    """Check what folding needs of events that follow those of the checksum *before*.

    >>> content_crc([1, 2], [b"a", b"b"], 0) == content_crc(
    ...     [2], [b"b"], content_crc([1], [b"a"], 0)
    ... )
    True
    """
    if len(types) == 1:
        return crc32(b"\0%d\0%b" % (types[0], data[0]), before)
    heads = {type: b"\0%d\0" % type for type in set(types)}
    if len(heads) == 1:
        (head,) = heads.values()
        return crc32(head.join((b"", *data)), before)
    parts = [b""] * (2 * len(data))
    parts[::2] = map(heads.__getitem__, types)
    parts[1::2] = data
    return crc32(b"".join(parts), before)


def name_crc(key: int, name: str) -> int:
    """Check a name's row."""
    return crc32(f"{key}/{name}".encode())


def seal(
    position: int,
    stream: int,
    version: int,
    type: int,
    id: bytes,
    time: int,
    meta: bytes | None,
    data: bytes,
) -> bytes:
    """Pack the envelope of one event."""
    packed = _pack(id, stream, version, time, type)
    content = data + b"\0" + meta if meta else data
    sum = crc32(content + position.to_bytes(8) + packed, WHOLE)
    return packed + sum.to_bytes(4, "little")


def sealed(
    positions: Iterable[int],
    streams: Iterable[int],
    versions: Iterable[int],
    types: Iterable[int],
    ids: Iterable[bytes],
    times: Iterable[int],
    metas: Sequence[bytes | None],
    data: Iterable[bytes],
) -> list[bytes]:
    """Pack the envelopes of many events."""
    packed = list(map(_pack, ids, streams, versions, times, types))
    sums = row_sums(positions, packed, metas, data)
    return [
        each + sum.to_bytes(4, "little") for each, sum in zip(packed, sums, strict=True)
    ]


def row_sums(
    positions: Iterable[int],
    envelopes: Iterable[bytes],
    metas: Sequence[bytes | None],
    data: Iterable[bytes],
) -> Iterator[int]:
    """Check many rows, without a Python loop: those that are whole give `WHOLE`."""
    places = map(int.to_bytes, positions, repeat(8))
    rows = zip(_contents(metas, data), places, envelopes, strict=True)
    return map(crc32, map(b"".join, rows), repeat(WHOLE))


def are_whole(
    positions: Sequence[int],
    envelopes: Sequence[bytes],
    metas: Sequence[bytes | None],
    data: Sequence[bytes],
) -> bool:
    """Tell whether many rows are whole, all in one go.

    What one of them leaves behind, if it is whole, is what the next one begins with.
    """
    parts = [b""] * (3 * len(positions))
    parts[::3] = _contents(metas, data)
    parts[1::3] = map(int.to_bytes, positions, repeat(8))
    parts[2::3] = envelopes
    return crc32(b"".join(parts), WHOLE) == WHOLE


def _contents(metas: Sequence[bytes | None], data: Iterable[bytes]) -> Iterable[bytes]:
    if not any(metas):
        return data
    both = zip(data, metas, strict=True)
    return [each + b"\0" + meta if meta else each for each, meta in both]


def unpacked(envelopes: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
    """Give what whole envelopes hold, as columns: id, stream, version, time, type."""
    return zip(*_unpack(b"".join(envelopes)), strict=True)


def agrees(
    stream: object, version: object, type: object, at: object, envelope: bytes
) -> bool:
    """Tell whether the columns that SQL looks for are as a whole envelope has them."""
    return next(_unpack(envelope))[1:] == (stream, version, at, type)
