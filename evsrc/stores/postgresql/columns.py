"""Show events as columns, so that loops over them run in C. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from struct import unpack
from typing import Any, Final, NamedTuple
from zlib import crc32

from ...core.event import StreamName
from .checks import type_salt

_MOST_NAMES: Final = 50_000


class Columns(NamedTuple):
    """Stored events; *sums* is for `damaged_row`, *keys* names stream and type."""

    positions: Sequence[int]
    versions: Sequence[int]
    times: Sequence[int]
    sums: Sequence[int]
    ids: Sequence[bytes]
    keys: Sequence[bytes]
    metas: Sequence[bytes | None]
    data: Sequence[bytes]


def unpacked(page: Sequence[Any]) -> Columns:
    """Unpack a page that came as one value a column.

    Raises:
        struct.error, AttributeError: an event has lost a value.
    """
    positions, versions, times, sums, ids, keys, metas, data = page
    integers = f">{len(data)}q"
    return Columns(
        unpack(integers, positions),
        unpack(integers, versions),
        unpack(integers, times),
        unpack(integers, sums),
        unpack("16s" * len(data), ids),
        keys.split(b"\xff"),
        metas,
        data,
    )


class Learned:
    """What was seen, by its key: stream, type, and what they add to a checksum."""

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[StreamName, str, int]] = {}
        self.types: dict[str, str] = {}

    def of(
        self, keys: Sequence[bytes]
    ) -> tuple[list[StreamName], list[str], list[int]]:
        """Tell what *keys* name: streams, types, and the parts of checksums.

        Raises:
            UnicodeDecodeError: one is no text.
            ValueError, InvalidStreamError: one is no key.
        """
        known = self.known
        streams: list[StreamName] = []
        types: list[str] = []
        salts: list[int] = []
        for key in keys:
            stream, type, salt = known.get(key) or self._learn(key)
            streams.append(stream)
            types.append(type)
            salts.append(salt)
        return streams, types, salts

    def _learn(self, key: bytes) -> tuple[StreamName, str, int]:
        category, id, type = key.decode().split("\0")
        type = self.types.setdefault(type, type)  # one text for all events
        name = key[: key.rindex(b"\0")]
        salt = crc32(name) + type_salt(type)  # `stream_salt`, of the bytes at hand
        if len(self.known) > _MOST_NAMES:
            self.known.clear()
        self.known[key] = named = StreamName(category, id), type, salt
        return named
