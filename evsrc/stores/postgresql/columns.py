"""Show events as columns, so that loops over them run in C. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from struct import iter_unpack, unpack
from typing import Any, Final, NamedTuple

from ...core.event import StreamName
from .checks import stream_salt, type_salt

_MOST_NAMES: Final = 50_000


class Columns(NamedTuple):
    """Stored events; *sums* is crc + seal, *keys* names stream and type."""

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
        struct.error, AttributeError: an event has lost a value. (An id that is missing
            is noticed when the columns are put together.)
    """
    positions, versions, times, sums, ids, keys, metas, data = page
    integers = f">{len(data)}q"
    return Columns(
        unpack(integers, positions),
        unpack(integers, versions),
        unpack(integers, times),
        unpack(integers, sums),
        [id for (id,) in iter_unpack("16s", ids)],
        keys.split(b"\xff"),
        metas,
        data,
    )


class Named(NamedTuple):
    """What a key names, and the part of a checksum that is the same for all of them."""

    stream: StreamName
    type: str
    salt: int


class Learned:
    """The streams and types that were seen, by their keys."""

    def __init__(self) -> None:
        self.known: dict[bytes, Named] = {}
        self.types: dict[str, str] = {}

    def of(self, keys: Sequence[bytes]) -> list[Named]:
        """Tell what *keys* name.

        Raises:
            UnicodeDecodeError: one is no text.
            ValueError, InvalidStreamError: one is no key.
        """
        known = self.known
        try:
            return [known[key] for key in keys]
        except KeyError:
            if len(known) > _MOST_NAMES:
                known.clear()
            for key in set(keys) - known.keys():
                known[key] = self._learnt(key)
        return [known[key] for key in keys]

    def _learnt(self, key: bytes) -> Named:
        category, id, type = map(bytes.decode, key.split(b"\0"))
        type = self.types.setdefault(type, type)  # one text for all events
        salt = stream_salt(category, id) + type_salt(type)
        return Named(StreamName(category, id), type, salt)
