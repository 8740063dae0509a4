"""Fetch stored events as one value a column, and hold every byte against its checksum.

SQLite puts the events of a page together while it does not hold the interpreter's lock,
so whoever handles the page before goes on meanwhile; loops over columns run in C.
Everything here runs on a connection's own thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO
from typing import NamedTuple
from zlib import crc32

from .checks import END_OF_NAME, ENVELOPE, WHOLE, unpacked
from .sql import sql

Values = Sequence[int | str | bytes]


class Packed(NamedTuple):
    """Stored events as they were found, each column end to end; nothing is checked."""

    rows: int
    envelopes: bytes
    opens: bytes
    metas: bytes
    data: bytes

    @property
    def size(self) -> int:
        """How many bytes they are, about."""
        return len(self.envelopes) + len(self.metas) + len(self.data)


class Columns(NamedTuple):
    """Stored events, each as it was written.

    *opened*: of the streams whose first events are among them the key, and as bytes the
    category, NUL and id.
    """

    ids: Sequence[bytes]
    positions: tuple[int, ...]
    keys: Sequence[int]
    versions: Sequence[int]
    times: Sequence[int]
    types: Sequence[int]
    metas: Sequence[bytes | None]
    data: Sequence[bytes]
    opened: Sequence[tuple[int, bytes]]


def fetch(db: sqlite3.Connection, statement: str, values: Values) -> Packed:
    """Give the events that a statement finds, in its order."""
    try:
        rows, *columns = db.execute(_packing(statement), values).fetchone()
    except sqlite3.DataError:  # they are more than SQLite makes one value of
        found = db.execute(sql(statement), values).fetchall()
        _, *columns = map(_joined, zip(*found, strict=True))
        rows = len(found)
    return Packed(rows, *[column or b"" for column in columns])


@cache
def _packing(statement: str) -> str:
    return sql("packed").replace("@found", sql(statement))


def _joined(column: Iterable[object]) -> bytes:
    return b"".join([each for each in column if isinstance(each, bytes)])


def unpack(packed: Packed) -> Columns | None:
    """Give events as columns; None: a byte of them is not as it was written."""
    rows, envelopes, opens, metas, data = packed
    if len(envelopes) != rows * ENVELOPE or crc32(envelopes, WHOLE) != WHOLE:
        return None
    ids, positions, keys, versions, times, types, *rest = unpacked(envelopes)
    sizes, meta_sizes, sums = rest
    bodies = _pieces(data, sizes)
    found = list(map(crc32, bodies))
    parts: list[bytes | None] = [None] * rows
    if metas:
        pieces = _pieces(metas, meta_sizes)
        found = list(map(crc32, pieces, found))
        parts = [piece or None for piece in pieces]
    first = [n for n, version in enumerate(versions) if version == 1]
    *names, end = opens.split(END_OF_NAME)
    if end or len(names) != len(first):
        return None
    for n, name in zip(first, names, strict=True):
        found[n] = crc32(name, found[n])
    fit = len(data) == sum(sizes) and len(metas) == sum(meta_sizes)
    if not fit or tuple(found) != sums:
        return None
    return Columns(
        ids,
        positions,
        keys,
        versions,
        times,
        types,
        parts,
        bodies,
        [(keys[n], name) for n, name in zip(first, names, strict=True)],
    )


def _pieces(whole: bytes, sizes: Iterable[int]) -> list[bytes]:
    return list(map(BytesIO(whole).read, sizes))  # a third of the time of slices


def first_damaged(db: sqlite3.Connection, statement: str, values: Values) -> int | None:
    """Give the position of the first event that a statement finds and is damaged."""
    for position, *row in db.execute(sql(statement), values):
        columns = unpack(Packed(1, *[_joined([value]) for value in row]))
        if columns is None or columns.positions != (position,):
            return int(position)
    return None
