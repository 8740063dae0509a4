"""Show events as columns, so that loops over them run in C. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
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


class Named(NamedTuple):
    """What a key names, and the part of a checksum that is the same for all of them."""

    stream: StreamName
    type: str
    salt: int


_PARTS: Final[Sequence[Callable[[Named], Any]]] = tuple(map(itemgetter, range(3)))


class Learned:
    """The streams and types that were seen, by their keys."""

    def __init__(self) -> None:
        self.known: dict[bytes, Named] = {}
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
        try:
            named = [known[key] for key in keys]
        except KeyError:
            if len(known) > _MOST_NAMES:
                known.clear()
            # one by one: a difference of sets would walk through all that are known
            for key in set(keys):
                if key not in known:
                    known[key] = self._learnt(key)
            named = [known[key] for key in keys]
        # a zip would make an iterator an event
        streams, types, salts = (list(map(part, named)) for part in _PARTS)
        return streams, types, salts

    def _learnt(self, key: bytes) -> Named:
        name, kind = key.rsplit(b"\0", 1)
        category, id = name.decode().split("\0")
        type = kind.decode()
        type = self.types.setdefault(type, type)  # one text for all events
        salt = crc32(name) + type_salt(type)  # `stream_salt`, of the bytes at hand
        return Named(StreamName(category, id), type, salt)
