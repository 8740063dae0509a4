"""Read pages and streams, and hold every byte against its checksum.

A page and its head are one statement, so one snapshot. With concurrent ordering the
head is the watermark, taken before the page: nothing at or below it can still appear.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Generic, TypeAlias
from uuid import UUID

from ...core.codec import Codec, Envelope, opaque_codec
from ...core.errors import CorruptionError, InvalidStreamError, StoreError
from ...core.event import E, Recorded, StreamName
from ...core.expectation import ALL, AnyQuery, Query
from ...ports import START, Loaded, Page
from .ahead import Ahead
from .checks import crcs, damaged_row, stream_salt, type_salt
from .columns import Columns, Learned, unpacked
from .connections import Db, Server
from .errors import is_too_large, translated
from .queries import asked, scans
from .records import Records
from .schema import Statements

_log: Final = logging.getLogger("evsrc")
_WINDOW: Final = 100_000
_LAST: Final = 2**62
_Fetched: TypeAlias = tuple[int, Columns | None, int]


class Reader(Generic[E]):
    """Reads on any connection of *server*, with the names that it has seen."""

    def __init__(
        self,
        server: Server,
        statements: Statements,
        codec: Codec[E],
        *,
        concurrent: bool,
        replica: Server | None = None,
    ) -> None:
        self.server = server
        self.replica = replica
        self.ahead: Ahead[_Fetched] | None = None  # inside a transaction there is none
        self.codec = codec
        self.concurrent = concurrent
        self.watermark = START  # concurrent: known to be final
        self.names = Learned()
        self.statements = statements
        self.records = Records(server, statements)

    async def _fetch(
        self, name: str, *arguments: Any, server: Server | None = None
    ) -> list[Any]:
        statement, server = self.statements[name], server or self.server
        timeout = server.timeout

        async def fetch(db: Db) -> list[Any]:
            rows: list[Any] = await db.fetch(statement, *arguments, timeout=timeout)
            return rows

        return await server.run(fetch)

    # Streams.

    async def load_events(self, stream: StreamName, *, after: int = 0) -> Loaded[E]:
        """Give a stream's events after a version, without envelopes."""
        if self.codec.restore is not None:
            page = await self.read_stream(stream, after=after)
            return Loaded([recorded.event for recorded in page.events], page.head)
        found = await self._fetch("payloads", stream.category, stream.id, after)
        if not found:
            return Loaded((), 0)
        (head, _, position), rows = _split(found)
        _check_complete(stream, len(rows), max(head - after, 0))
        self.statements.reached(int.from_bytes(position or b""))
        if not rows:
            return Loaded((), head)
        stored, types, data = zip(*rows, strict=True)
        salts = [stream_salt(stream.category, stream.id)] * len(rows)
        try:
            self.names.types.update((type, type) for type in set(types))
            found = crcs(salts, map(type_salt, types), range(after + 1, head + 1), data)
        except (TypeError, AttributeError) as error:
            raise CorruptionError("an event's row has lost a value") from error
        if found != list(stored):
            raise CorruptionError(f"an event of stream '{stream}' is damaged")
        return Loaded(self.codec.decode_all(types, self.names.types, data), head)

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
        events = self._recorded_rows(rows)
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
        self,
        query: AnyQuery = "all",
        *,
        after: int = START,
        limit: int = 1000,
        backward: bool = False,
    ) -> Page[E]:
        """Give a page of the log; it scans no more than a window of positions."""
        limit = max(limit, 0)
        if backward:
            return await self._read_backward(query, after, limit)
        end = after + _WINDOW if scans(query) or query == ALL else _LAST
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
        bounds = after, end, limit
        head, found, limit = await self._next_page(query, bounds, server)
        last = found.positions[-1] if found else head
        if final is None and last > head:
            raise CorruptionError(
                f"the log's head is {head}, but there is an event at {last}"
            )
        head = head if final is None else final
        if after >= head or limit == 0:
            return Page((), after, head)
        end = min(end, head)
        events = self._recorded(found) if found else ()
        if final is None and query == ALL:
            positions = found.positions if found else ()
            _check_dense(positions, after, min(end, after + limit))
        reached = last if len(events) == limit else end
        return Page(events, reached, head)

    async def _next_page(
        self, query: AnyQuery, bounds: tuple[int, int, int], server: Server | None
    ) -> _Fetched:
        """Fetch a page, or take it if it was read ahead; have the next one read ahead.

        A page read ahead counts only if it is full, so that nothing can be missing in
        it, and does not end the log: what came since then must be seen.
        """
        after, end, limit = bounds
        if self.ahead is None:
            return await self._fetch_page(query, bounds, server=server)
        walking, coming = self.ahead.take((after, limit, query, server))
        page = None if coming is None else await coming
        if page is None or not self._goes_on(page, limit):
            page = await self._fetch_page(query, bounds, server=server)
        head, found, _ = page
        if found and _is_full(page, limit):
            last = found.positions[-1]
            more = last + limit < (end if self.concurrent else min(end, head))
            read = partial(self._fetch_page, query, (last, end, limit), server=server)
            following = last, limit, query, server
            await self.ahead.follow(following, read if walking and more else None)
        return page

    def _goes_on(self, page: _Fetched, limit: int) -> bool:
        head, found, _ = page
        if found is None or not _is_full(page, limit):
            return False
        return self.concurrent or found.positions[-1] < head

    async def _read_backward(self, query: AnyQuery, before: int, limit: int) -> Page[E]:
        """Give a page of the log before a position (START: its end), newest first."""
        last = before - 1 if before else _LAST
        known = await self.head() if self.concurrent or scans(query) else _LAST
        if self.concurrent:
            last = min(last, known)
        start = max(min(last, known) - _WINDOW, START) if scans(query) else START
        bounds = start, last, limit
        head, found, limit = await self._fetch_page(query, bounds, backward=True)
        head = known if self.concurrent else head
        if limit == 0:
            return Page((), before, head)
        events = self._recorded(found) if found else ()
        if query == ALL and not self.concurrent:
            positions = found.positions[::-1] if found else ()
            last = min(last, head)
            _check_dense(positions, max(last - limit, START), last)
        reached = start + 1 if start else START
        if events and len(events) == limit:
            reached = events[-1].position
        return Page(events, reached, head)

    async def _fetch_page(
        self,
        query: AnyQuery,
        bounds: tuple[int, int, int],
        *,
        backward: bool = False,
        server: Server | None = None,
    ) -> _Fetched:
        """Give head, events, limit: a lower one, if the page is too large to send."""
        name, of = "log_page", tuple[Any, ...]()
        if backward or (isinstance(query, Query) and any(i.tags for i in query.items)):
            name, of = "log_page_at", (backward, *asked(query, backward=backward))
        elif isinstance(query, Query):
            name, of = "log_page_matching", _columns(query)
        after, end, limit = bounds
        while True:
            try:
                rows = await self._fetch(name, after, end, limit, *of, server=server)
            except StoreError as error:
                if limit <= 1 or not is_too_large(error.__cause__):
                    raise
                limit //= 2
            else:
                return *_unpacked(rows[0]), limit

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
        return self._recorded_rows(rows)[0] if rows else None

    # Rows to events.

    def _recorded_rows(self, rows: Sequence[Any]) -> tuple[Recorded[E], ...]:
        return self._recorded(Columns(*zip(*rows, strict=True))) if rows else ()

    def _recorded(self, found: Columns) -> tuple[Recorded[E], ...]:
        """Check stored events and decode them."""
        positions, versions, times, sums, ids, keys, metas, data = found
        try:
            streams, types, salts = self.names.of(keys)
            damaged = damaged_row(salts, data, ids, metas, sums)
        except UnicodeDecodeError as error:
            raise translated(error, self.server.where) from error
        except (TypeError, AttributeError, ValueError, InvalidStreamError) as error:
            raise CorruptionError("an event's row has lost a value") from error
        if damaged is not None:
            raise CorruptionError(
                f"the event at position {positions[damaged]} is damaged"
            )
        restore = self.codec.restore
        if restore is None:
            events = self.codec.decode_all(types, self.names.types, data)
        else:
            envelopes = map(Envelope, ids, streams, versions, metas)
            events = list(map(restore, types, data, envelopes))
        self.statements.reached(positions[-1])
        values = (events, types, streams, versions, positions, ids, metas, times)
        return tuple(map(Recorded, *values))

    # Everything.

    async def verify(self) -> tuple[str, ...]:
        """Check every stored byte that a read could return; say what is wrong."""
        problems: list[str] = []
        for check in (
            self._verify_streams,
            self._verify_tags,
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

    async def _verify_tags(self) -> list[str]:
        return [
            f"the index of tags is damaged where it has position {position}"
            for (position,) in await self._fetch("wrong_tags")
        ]

    async def _verify_log(self) -> list[str]:
        undecoded = Reader(
            self.server, self.statements, opaque_codec(), concurrent=self.concurrent
        )
        undecoded.ahead = self.ahead
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


def _unpacked(row: Sequence[Any]) -> tuple[int, Columns | None]:
    """Give the head and the events of a page."""
    head, *packed = row
    if head is None:
        raise CorruptionError("the row that holds the log's head is gone")
    if packed[-1] is None:
        return head, None
    try:
        return head, unpacked(packed)
    except (struct.error, AttributeError) as error:
        raise CorruptionError("an event's row has lost a value") from error


def _is_full(page: _Fetched, limit: int) -> bool:
    return page[1] is not None and len(page[1].positions) == limit


def _check_dense(positions: Sequence[int], after: int, end: int) -> None:
    """Serial ordering leaves no holes: a missing position is a lost event."""
    if positions != tuple(range(after + 1, end + 1)):
        raise CorruptionError(
            f"positions {after + 1} to {end} of the log are not all there"
        )


def _check_complete(name: StreamName, found: int, expected: int) -> None:
    if found != expected:
        raise CorruptionError(
            f"stream '{name}' should have {expected} events here, it has {found}"
        )
