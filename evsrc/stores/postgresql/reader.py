"""Read pages and streams, and hold every byte against its checksum.

A page and its head are one statement, so one snapshot. With concurrent ordering the
head is the watermark, taken before the page: nothing at or below it can still appear.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, TypeAlias
from uuid import UUID

from ...core.codec import Codec, Envelope, opaque_codec
from ...core.errors import CorruptionError, StoreError
from ...core.event import E, Recorded, StreamName
from ...core.expectation import AnyQuery, Query
from ...ports import START, Loaded, Page
from .checks import (
    crcs,
    damaged_row,
    stream_salt,
    type_salt,
)
from .connections import Db, Server
from .records import Records
from .schema import Names

EventRow: TypeAlias = Any
"""position, category, stream_id, version, type, id, at, meta, data, crc + seal."""

_log: Final = logging.getLogger("evsrc")
_WINDOW: Final = 100_000
_MOST_STREAMS: Final = 50_000
_LAST: Final = 2**62


class Reader(Generic[E]):
    """Reads on any connection of *server*, with the names that it has seen."""

    def __init__(
        self,
        server: Server,
        names: Names,
        codec: Codec[E],
        *,
        concurrent: bool,
        replica: Server | None = None,
    ) -> None:
        self.server = server
        self.replica = replica
        self.codec = codec
        self.concurrent = concurrent
        self.watermark = START  # concurrent: known to be final
        self.types: dict[str, str] = {}
        self.salts: dict[str, int] = {}
        self.streams: dict[tuple[str, str], tuple[StreamName, int]] = {}
        self.records = Records(server, names)
        self._names = names
        self._sql: dict[str, str] = {}

    async def _fetch(
        self, name: str, *arguments: Any, server: Server | None = None
    ) -> list[Any]:
        statement, server = self._statement(name), server or self.server
        timeout = server.timeout

        async def fetch(db: Db) -> list[Any]:
            rows: list[Any] = await db.fetch(statement, *arguments, timeout=timeout)
            return rows

        return await server.run(fetch)

    def _statement(self, name: str) -> str:
        statement = self._sql.get(name)
        if statement is None:
            statement = self._sql[name] = self._names.sql(name)
        return statement

    # Streams.

    async def load_events(self, stream: StreamName, *, after: int = 0) -> Loaded[E]:
        """Give a stream's events after a version, without envelopes."""
        if self.codec.restore is not None:
            page = await self.read_stream(stream, after=after)
            return Loaded([recorded.event for recorded in page.events], page.head)
        found = await self._fetch("payloads", stream.category, stream.id, after)
        if not found:
            return Loaded((), 0)
        (head, *_), rows = _split(found)
        _check_complete(stream, len(rows), max(head - after, 0))
        if not rows:
            return Loaded((), head)
        stored, types, data = zip(*rows, strict=True)
        salts = [stream_salt(stream.category, stream.id)] * len(rows)
        try:
            self._learn_types(types)
            kinds = map(self.salts.__getitem__, types)
            found = crcs(salts, kinds, range(after + 1, head + 1), data)
        except (TypeError, AttributeError) as error:
            raise CorruptionError("an event's row has lost a value") from error
        if found != list(stored):
            raise CorruptionError(f"an event of stream '{stream}' is damaged")
        return Loaded(self.codec.decode_all(types, self.types, data), head)

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after: int = 0,
        limit: int | None = None,
        backward: bool = False,
    ) -> Page[E]:
        """Give a page of a stream; backward: the events before *after* (0: the end)."""
        name, bound = "stream_forward", after
        if backward:
            name, bound = "stream_backward", after or _LAST
        count = _LAST if limit is None else max(limit, 0)
        found = await self._fetch(name, stream.category, stream.id, bound, count)
        (head, *_), rows = _split(found) if found else ((0,), [])
        events = self._recorded(rows)
        if backward:
            first = min(bound, head + 1) - 1
            wanted = range(first, max(first - count, 0), -1)
        else:
            wanted = range(after + 1, min(head, after + count) + 1)
        versions = [recorded.version for recorded in events]
        if versions != list(wanted):
            raise CorruptionError(f"the versions of stream '{stream}' are damaged")
        return Page(events, versions[-1] if versions else after, head)

    # The log.

    async def read_all(
        self, query: AnyQuery = "all", *, after: int = START, limit: int = 1000
    ) -> Page[E]:
        """Give a page of the log; it looks at no more than a window of positions."""
        end = after + _WINDOW
        if self.concurrent:
            head = self.watermark
            if after + limit < head:
                page = await self._page(query, after, min(head, end), limit, head)
                if page.reached < head:
                    return page
            head = await self.head()  # to call this the end takes a fresh look
            return await self._page(query, after, min(head, end), limit, head)
        if self.replica is not None and limit > 0:
            try:
                page = await self._page(query, after, end, limit, None, self.replica)
                if page.reached < page.head:  # whole: nothing can be missing in it
                    return page
            except StoreError as error:
                _log.warning("the replica cannot be read: %s", error)
        return await self._page(query, after, end, limit, None)

    async def _page(
        self,
        query: AnyQuery,
        after: int,
        end: int,
        limit: int,
        final: int | None,
        server: Server | None = None,
    ) -> Page[E]:
        limit = max(limit, 0)
        if isinstance(query, Query):
            name, asked = "log_page_matching", _columns(query)
        else:
            name, asked = "log_page", ()
        found = await self._fetch(name, after, end, limit, *asked, server=server)
        if not found:
            raise CorruptionError("the row that holds the log's head is gone")
        (head, *_), rows = _split(found)
        last = rows[-1][0] if rows else head
        if final is None and (last is None or last > head):
            raise CorruptionError(
                f"the log's head is {head}, but there is an event at {last}"
            )
        head = head if final is None else final
        if after >= head or limit == 0:
            return Page((), after, head)
        end = min(end, head)
        events = self._recorded(rows)
        if final is None:
            self._check_dense(events, after, end, limit, whole=not asked)
        reached = events[-1].position if len(rows) == limit else end
        return Page(events, reached, head)

    def _check_dense(
        self,
        events: Sequence[Recorded[E]],
        after: int,
        end: int,
        limit: int,
        *,
        whole: bool,
    ) -> None:
        """Serial ordering leaves no holes: a missing position is a lost event."""
        positions = [recorded.position for recorded in events]
        if whole and positions != list(range(after + 1, min(end, after + limit) + 1)):
            raise CorruptionError(
                f"positions {after + 1} to {min(end, after + limit)} of the log are "
                "not all there"
            )

    async def head(self) -> int:
        """Give the last position that a reader can have reached."""
        name = "head_concurrent" if self.concurrent else "head_serial"
        found = await self._fetch(name)
        if not found:
            raise CorruptionError("the row that holds the log's head is gone")
        head: int = found[0][0]
        self.watermark = max(self.watermark, head)
        return head

    async def find(self, event_id: UUID) -> Recorded[E] | None:
        """Give the event of an id."""
        rows = await self._fetch("find", event_id)
        return self._recorded(rows)[0] if rows else None

    # Rows to events.

    def _recorded(self, rows: Sequence[EventRow]) -> tuple[Recorded[E], ...]:
        """Give checked rows as events; columns, not rows, so that loops run in C."""
        if not rows:
            return ()
        columns = zip(*rows, strict=True)
        positions, categories, ids, versions, kinds, uuids, times, metas, data, sums = (
            columns
        )
        try:
            self._learn_types(kinds)
            streams, salts = zip(*self._streams_of(categories, ids), strict=True)
            types = map(self.salts.__getitem__, kinds)
            row = salts, types, versions, data, positions, times, uuids, metas, sums
            damaged = damaged_row(*row)
        except (TypeError, AttributeError) as error:
            raise CorruptionError("an event's row has lost a value") from error
        if damaged is not None:
            raise CorruptionError(
                f"the event at position {positions[damaged]} is damaged"
            )
        names = list(map(self.types.__getitem__, kinds))
        restore = self.codec.restore
        if restore is None:
            events = self.codec.decode_all(kinds, self.types, data)
        else:
            envelopes = map(Envelope, uuids, streams, versions, metas)
            events = list(map(restore, names, data, envelopes))
        values = (events, names, streams, versions, positions, uuids, metas, times)
        return tuple(map(Recorded, *values))

    def _learn_types(self, types: Iterable[str]) -> None:
        for type in set(types) - self.types.keys():
            self.types[type] = type
            self.salts[type] = type_salt(type)

    def _streams_of(
        self, categories: Iterable[str], ids: Iterable[str]
    ) -> list[tuple[StreamName, int]]:
        if len(self.streams) > _MOST_STREAMS:
            self.streams.clear()
        keys = list(zip(categories, ids, strict=True))
        return [
            known if known is not None else self._new_stream(key)
            for key, known in zip(keys, map(self.streams.get, keys), strict=True)
        ]

    def _new_stream(self, key: tuple[str, str]) -> tuple[StreamName, int]:
        self.streams[key] = stream = StreamName(*key), stream_salt(*key)
        return stream

    # Everything.

    async def verify(self) -> tuple[str, ...]:
        """Check every stored byte that a read could return; say what is wrong."""
        problems: list[str] = []
        for check in (
            self._verify_streams,
            self.records.verify,
            self._verify_log,
        ):
            try:
                problems += await check()
            except CorruptionError as error:
                problems.append(str(error))
        return tuple(problems)

    async def _verify_streams(self) -> list[str]:
        return [
            f"stream '{StreamName(category, id)}' has {events} events, with versions "
            f"from {first} to {last}"
            for category, id, events, first, last in await self._fetch("torn_streams")
        ]

    async def _verify_log(self) -> list[str]:
        undecoded = Reader(
            self.server, self._names, opaque_codec(), concurrent=self.concurrent
        )
        after = START
        while True:
            page = await undecoded.read_all(after=after)
            if page.reached >= page.head:
                return []
            after = page.reached


def _columns(query: Query) -> tuple[list[str], ...]:
    """Give a query as categories, types, and the two halves of pairs."""
    categories = {c for item in query.items if not item.types for c in item.categories}
    types = {t for item in query.items if not item.categories for t in item.types}
    pairs = [
        (category, type)
        for item in query.items
        for category in item.categories
        for type in item.types
    ]
    return (
        sorted(categories),
        sorted(types),
        [category for category, _ in pairs],
        [type for _, type in pairs],
    )


def _split(found: list[Any]) -> tuple[Any, list[Any]]:
    """Give the row that holds the head, and the others; nearly always it is first."""
    at = 0
    while at < len(found) and found[at][1] is not None:
        at += 1
    if at == len(found) or found[at][0] is None:
        raise CorruptionError("rows were found without their head")
    return found[at], found[:at] + found[at + 1 :]


def _check_complete(name: StreamName, found: int, expected: int) -> None:
    if found != expected:
        raise CorruptionError(
            f"stream '{name}' should have {expected} events here, it has {found}"
        )
