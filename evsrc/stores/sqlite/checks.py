"""Compute the keys and checksums that make changed bytes visible.

An event's `envelope` holds a checksum of the row's other values, and ends in one of
itself, so that many are checked in one go. A stream's `content` covers the types and
data of all its events in order, so that folding checks them in one go and reads nothing
else of them. All are CRC-32. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from struct import Struct, calcsize
from typing import Any, Final
from zlib import crc32

_CHECKED: Final = "16sqqqqIIII"
_FIELDS: Final = _CHECKED + "4x"  # and the checksum of these
_pack: Final = Struct("<" + _CHECKED).pack
_unpack: Final = Struct("<" + _FIELDS).iter_unpack
_MANY: Final = 100  # for fewer, it does not pay to unpack all in one go
_MOST: Final = 1000  # more would take too much memory to remember
ENVELOPE: Final = calcsize("<" + _FIELDS)
"""Bytes of an envelope."""
END_OF_NAME: Final = b"\xff"
"""What ends a stream's name where it is stored with its first event; no UTF-8."""
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


def opening(category: str, id: str) -> bytes:
    """Give the name of the stream that an event opens, to be stored with it."""
    return f"{category}\0{id}".encode() + END_OF_NAME


def content_sum(opens: bytes, meta: bytes | None, data: bytes) -> int:
    """Check what an event holds beside its envelope."""
    sum = crc32(data)
    if meta:
        sum = crc32(meta, sum)
    return crc32(opens[:-1], sum) if opens else sum


def seal(
    position: int,
    stream: int,
    version: int,
    type: int,
    id: bytes,
    time: int,
    opens: bytes,
    meta: bytes | None,
    data: bytes,
) -> bytes:
    """Pack the envelope of one event."""
    sizes, sum = (len(data), len(meta or b"")), content_sum(opens, meta, data)
    packed = _pack(id, position, stream, version, time, type, *sizes, sum)
    return packed + crc32(packed, WHOLE).to_bytes(4, "little")


def sealed(
    positions: Iterable[int],
    streams: Iterable[int],
    versions: Iterable[int],
    types: Iterable[int],
    ids: Iterable[bytes],
    times: Iterable[int],
    opens: Sequence[bytes],
    metas: Sequence[bytes | None],
    data: Sequence[bytes],
) -> list[bytes]:
    """Pack the envelopes of many events, of which only the first may open a stream."""
    sums = list(map(crc32, data))
    meta_sizes: Iterable[int] = repeat(0, len(data))
    if any(metas):
        pieces = [meta or b"" for meta in metas]
        sums, meta_sizes = list(map(crc32, pieces, sums)), map(len, pieces)
    sums[0] = content_sum(opens[0], metas[0], data[0])
    fixed = ids, positions, streams, versions, times, types
    envelopes = map(_pack, *fixed, map(len, data), meta_sizes, sums)
    return [each + crc32(each, WHOLE).to_bytes(4, "little") for each in envelopes]


def unpacked(envelopes: bytes) -> Iterable[tuple[Any, ...]]:
    """Give what whole envelopes hold, as columns.

    They are: id, position, stream, version, time, type, the sizes of data and metadata,
    and the checksum of data, metadata and the name that the event opens, if it does.
    """
    rows = len(envelopes) // ENVELOPE
    if not _MANY <= rows <= _MOST:
        return zip(*_unpack(envelopes), strict=True)
    values = _all_of(rows).unpack(envelopes)  # half the time of a tuple a row
    return (values[column::9] for column in range(9))


@lru_cache(maxsize=4)
def _all_of(rows: int) -> Struct:
    return Struct("<" + _FIELDS * rows)


def agrees(
    stream: object, version: object, type: object, at: object, envelope: bytes
) -> bool:
    """Tell whether the columns that SQL looks for are as a whole envelope has them."""
    return next(_unpack(envelope))[2:6] == (stream, version, at, type)
