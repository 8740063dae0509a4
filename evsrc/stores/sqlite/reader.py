"""Read pages and streams, and hold every byte against its checksum.

Everything here runs on a reading connection's own thread, each call in one snapshot.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, NamedTuple

from ...core.codec import Codec, Envelope
from ...core.errors import CorruptionError
from ...core.event import NO_TAGS, E, Recorded, StreamName
from ...core.expectation import AnyQuery, Query, asks_for, matches
from ...core.snapshot import Snapshot
from ...ports import START, Checkpoint, Loaded, Page
from ..rows import snapshot_crc
from .checks import agrees, content_crc, tag_key
from .errors import checked_name, checked_stream
from .pages import Packed, Values, fetch, first_damaged, unpack
from .queries import Asked
from .records import verify_records
from .sql import sql
from .writer import find_stream, read_checkpoint, read_head

_WINDOW: Final = 100_000
_MOST_STREAMS: Final = 50_000
_LAST: Final = 2**62
_LARGEST_AHEAD: Final = 2**24  # bytes of the page before


class _Found(NamedTuple):
    """What a statement has found, and whether events at some positions can be that."""

    packed: Packed
    statement: str
    values: Values
    fits: Callable[[tuple[int, ...]], bool]


class _Read(NamedTuple, Generic[E]):
    """A page, and how many bytes its events were, about."""

    page: Page[E]
    size: int


class Reader(Generic[E]):
    """One connection that reads, with the names and streams that it has seen."""

    def __init__(self, db: sqlite3.Connection, codec: Codec[E]) -> None:
        self.db = db
        self.codec = codec
        self.forget()

    def forget(self) -> None:
        """Forget names and streams: what was read of them may be gone."""
        self.names: dict[int, str] = {}
        self.keys: dict[str, int] = {}
        self.streams: dict[int, StreamName] = {}
        self._next: tuple[AnyQuery, int, int] | None = None
        self._ahead: _Read[E] | None = None
        self._walks = False

    @contextmanager
    def _snapshot(self) -> Generator[None, None, None]:
        inside: bool = self.db.in_transaction  # in memory, in a transaction's block
        if inside:
            yield
            return
        self.db.execute("BEGIN")
        try:
            yield
        finally:
            if self.db.in_transaction:
                self.db.execute("COMMIT")

    # Streams.

    def load_events(self, name: StreamName, after: int) -> Loaded[E]:
        """Give a stream's events after a version, without envelopes."""
        if after or self.codec.restore is not None:
            page = self.read_stream(name, after, None, backward=False)
            return Loaded([recorded.event for recorded in page.events], page.head)
        types, data = self._payloads(name)
        self._learn_names(types)
        return Loaded(self.codec.decode_all(types, self.names, data), len(data))

    def _payloads(self, name: StreamName) -> tuple[Sequence[int], Sequence[bytes]]:
        """Give the types and data of a whole stream, checked."""
        with self._snapshot():
            key, head, content = find_stream(self.db, name)
            if not head:
                return (), ()
            rows = self.db.execute(sql("payloads"), (key,)).fetchall()
        _check_complete(name, len(rows), head)
        types, data = zip(*rows, strict=True)
        try:
            whole = content_crc(types, data, 0) == content
        except TypeError:  # a value of another type than was written
            whole = False
        if not whole:
            raise CorruptionError(f"an event of stream '{name}' is damaged")
        return types, data

    def read_stream(
        self, name: StreamName, after: int, limit: int | None, *, backward: bool
    ) -> Page[E]:
        """Give a page of a stream; backward: the events before *after* (0: the end)."""
        count = _LAST if limit is None else limit
        with self._snapshot():
            key, head, _ = find_stream(self.db, name)
            if backward:
                before = head + 1 if after == 0 else min(after, head + 1)
                statement, bound, step = "stream_backward", before, -1
                count = min(count, before - 1)
            else:
                statement, bound, step = "stream_forward", after, 1
                count = min(count, head - after)
            if count <= 0:
                return Page((), after, head)
            found = self._fetch(statement, (key, bound, count), bool)
        _check_complete(name, found.packed.rows, count)
        self.streams[key] = name
        events = self._recorded(found)
        versions = range(bound + step, bound + step * (count + 1), step)
        for recorded, version in zip(events, versions, strict=True):
            if recorded.version != version or recorded.stream != name:
                raise CorruptionError(f"stream {str(name)!r} is damaged at {version}")
        return Page(events, versions[-1], head)

    # The log.

    def read_all(self, query: AnyQuery, after: int, limit: int) -> Page[E]:
        """Give a page of the log; it scans no more than a window of positions."""
        walking, ahead = (query, after, limit) == self._next, self._ahead
        self._next = self._ahead = None
        if ahead is None or not walking:
            ahead = self._read(query, after, limit)
        page, size = ahead
        if len(page.events) == limit and page.reached < page.head:
            self._next = query, page.reached, limit
            more = page.reached + limit < page.head
            self._walks = walking and more and size <= _LARGEST_AHEAD
        return page

    def read_ahead(self) -> None:
        """Read what is asked for next, if somebody walks through the log.

        Who has read two pages, one after the other, will want the third. There is one
        page at most, and only if it is full, so that nothing can be missing in it, and
        does not end the log: what came since then must be seen.
        """
        if self._next is None or not self._walks:
            return
        try:
            ahead = self._read(*self._next)
        except Exception:  # noqa: BLE001 - whoever asks for it is told
            return
        page, limit = ahead.page, self._next[-1]
        if len(page.events) == limit and page.reached < page.head:
            self._ahead = ahead

    def drop_ahead(self) -> None:
        """Forget what was read ahead; from any thread."""
        self._ahead = None

    def _read(self, query: AnyQuery, after: int, limit: int) -> _Read[E]:
        with self._snapshot():
            head = self.head()
            if after >= head or limit <= 0:
                return _Read(Page((), after, head), 0)
            asked = self._asked(query)
            end = min(head, after + _WINDOW) if asked is None or asked.scans else head
            found = self._found(asked, after, end, limit)
        events = self._recorded(found)
        reached = events[-1].position if len(events) == limit else end
        page = Page(_asked_for(query, events), reached, head)
        return _Read(page, found.packed.size)

    def read_backward(self, query: AnyQuery, before: int, limit: int) -> Page[E]:
        """Give a page of the log before a position (START: its end), newest first."""
        with self._snapshot():
            head = self.head()
            last = min(before - 1, head) if before else head
            if last <= START or limit <= 0:
                return Page((), before if limit <= 0 else START, head)
            asked = self._asked(query)
            start = START if asked and not asked.scans else max(START, last - _WINDOW)
            found = self._found(asked, start, last, limit, backward=True)
        events = self._recorded(found)
        reached = start + 1 if start else START
        if len(events) == limit:
            reached = events[-1].position
        return Page(_asked_for(query, events), reached, head)

    def _fetch(
        self, statement: str, values: Values, fits: Callable[[tuple[int, ...]], bool]
    ) -> _Found:
        return _Found(fetch(self.db, statement, values), statement, values, fits)

    def _found(
        self,
        asked: Asked | None,
        after: int,
        last: int,
        limit: int,
        *,
        backward: bool = False,
    ) -> _Found:
        """Find what is asked for (None: everything) between two positions."""
        if asked is None:
            return self._every(after, last, limit, backward=backward)
        if not asked.tagged and not backward:
            bounds = after, last, asked.untagged, limit
            return self._fetch("log_page_matching", bounds, _rising(after, last))
        places = asked.positions(self.db, after, last, limit, backward=backward)
        listed = (json.dumps(places),)
        found = self._fetch("events_at", listed, tuple(places).__eq__)
        if found.packed.rows != len(places):
            raise CorruptionError("the index of tags has events that are not there")
        return found

    def _every(self, after: int, last: int, limit: int, *, backward: bool) -> _Found:
        count = min(last - after, limit)
        statement, places = "log_page", range(after + 1, after + count + 1)
        if backward:
            statement, places = "log_page_backward", range(last, last - count, -1)
        found = self._fetch(statement, (after, last, count), tuple(places).__eq__)
        if found.packed.rows != count:
            first, end = min(places), max(places)
            raise CorruptionError(f"positions {first} to {end} are not all in the log")
        return found

    def _asked(self, query: AnyQuery) -> Asked | None:
        if not isinstance(query, Query):
            return None
        wanted = {
            name for item in query.items for name in (*item.categories, *item.types)
        }
        if not wanted <= self.keys.keys():
            self._read_names()
        return Asked(query, lambda name: self.keys.get(name, -1))

    def head(self) -> int:
        """Give the log's last position."""
        return read_head(self.db)

    def find(self, event_id: bytes) -> Recorded[E] | None:
        """Give the event of an id."""
        events = self._recorded(self._fetch("find", (event_id,), bool))
        return events[0] if events else None

    # Rows to events.

    def _recorded(self, found: _Found) -> tuple[Recorded[E], ...]:
        """Give what was found as events, if it is as it was written."""
        if not found.packed.rows:
            return ()
        columns = unpack(found.packed)
        if columns is None or not found.fits(columns.positions):
            place = first_damaged(self.db, found.statement, found.values)
            where = "that is whole when read again" if place is None else place
            raise CorruptionError(f"the event at position {where} is damaged")
        ids, positions, keys, versions, times, types, metas, data, opened = columns
        self._learn_names(types)
        streams = self._streams_of(keys, opened)
        names = list(map(self.names.__getitem__, types))
        restore = self.codec.restore
        if restore is None:
            events = self.codec.decode_all(types, self.names, data)
        else:
            known = map(Envelope, ids, streams, versions, metas)
            events = list(map(restore, names, data, known))
        values = (events, names, streams, versions, positions, ids, metas, times)
        return tuple(map(Recorded, *values))

    def _learn_names(self, keys: Iterable[int]) -> None:
        if not self.names.keys() >= (wanted := set(keys)):
            self._read_names()
            if missing := wanted - self.names.keys():
                raise CorruptionError(f"the names with the keys {missing} are gone")

    def _read_names(self) -> None:
        rows = self.db.execute(sql("names")).fetchall()
        self.names = {key: checked_name(key, name, crc) for key, name, crc in rows}
        self.keys = {name: key for key, name in self.names.items()}

    def _streams_of(
        self, keys: Sequence[int], opened: Iterable[tuple[int, bytes]]
    ) -> list[StreamName]:
        streams = self.streams
        if len(streams) > _MOST_STREAMS:
            streams.clear()
        for key, name in opened:
            if key not in streams:
                streams[key] = StreamName(*name.decode().split("\0"))
        try:
            return list(map(streams.__getitem__, keys))
        except KeyError:
            self._learn_streams(keys)
        return list(map(streams.__getitem__, keys))

    def _learn_streams(self, keys: Iterable[int]) -> None:
        # one by one: a difference of sets would walk through all streams that are known
        missing = [key for key in set(keys) if key not in self.streams]
        rows = self.db.execute(sql("streams_by_key"), (json.dumps(missing),)).fetchall()
        if len(rows) != len(missing):
            raise CorruptionError("the rows of some streams are gone")
        for row in rows:
            self.streams[row[0]] = checked_stream(*row)[0]

    # Checkpoints and snapshots.

    def checkpoint(self, name: str) -> Checkpoint | None:
        """Give a subscription's checkpoint."""
        position = read_checkpoint(self.db, name)
        return None if position is None else Checkpoint(name, position)

    def snapshot(self, name: str) -> Snapshot[bytes] | None:
        """Give a snapshot; None also if it is damaged."""
        row = self.db.execute(sql("snapshot"), (name,)).fetchone()
        if row is None:
            return None
        version, schema, state, crc = row
        whole = (
            isinstance(state, bytes)
            and snapshot_crc(name, version, schema, state) == crc
        )
        return Snapshot(state, version, schema) if whole else None

    # Everything.

    def verify(self) -> tuple[str, ...]:
        """Check every stored byte that a read could return; say what is wrong."""
        self.streams.clear()
        self.names = {}
        problems: list[str] = []
        for check in (
            self._verify_file,
            self._read_names,
            self._verify_streams,
            self._verify_checkpoints,
            lambda: verify_records(self.db),
            self._verify_log,
        ):
            try:
                check()
            except (CorruptionError, sqlite3.Error, ValueError) as error:
                problems.append(str(error))
        return tuple(problems)

    def _verify_file(self) -> None:
        lines = [line for (line,) in self.db.execute("PRAGMA integrity_check(20)")]
        if lines != ["ok"]:
            raise CorruptionError("; ".join(map(str, lines)))

    def _verify_checkpoints(self) -> None:
        for (name,) in self.db.execute("SELECT name FROM evsrc_checkpoint").fetchall():
            read_checkpoint(self.db, name)

    def _verify_streams(self) -> None:
        for row in self.db.execute("SELECT * FROM evsrc_stream"):
            name, _ = checked_stream(*row)
            self._payloads(name)
        strays = self.db.execute(
            "SELECT e.position FROM evsrc_event AS e "
            "LEFT JOIN evsrc_stream AS s ON s.key = e.stream "
            "LEFT JOIN evsrc_name AS n ON n.key = e.category "
            "WHERE s.category IS NOT n.name OR e.opens IS NOT CASE e.version "
            "WHEN 1 THEN CAST(s.category || char(0) || s.id || x'ff' AS BLOB) "
            "ELSE x'' END "
            "LIMIT 1"
        ).fetchall()
        for (position,) in strays:
            raise CorruptionError(
                f"the category or stream at position {position} is damaged"
            )

    def _verify_log(self) -> None:
        after = START
        undecoded = Reader(self.db, Codec(_refuse, _refuse, lambda _type, data: data))
        tags = 0
        while page := undecoded.read_all("all", after, 1000):
            if not page.events:
                break
            tags += sum(self._verify_tags(recorded) for recorded in page.events)
            after = page.reached
        self._verify_columns(after)
        (stored,) = self.db.execute("SELECT count(*) FROM evsrc_tag").fetchone()
        if stored != tags:
            raise CorruptionError(f"the index of tags has {stored} rows, not {tags}")

    def _verify_columns(self, last: int) -> None:
        """See that SQL searches for what the envelopes hold, which are whole."""
        for position, *row in self.db.execute(
            "SELECT position, stream, version, type, at, envelope FROM evsrc_event "
            "WHERE position <= ?",
            (last,),
        ):
            if not agrees(*row):
                raise CorruptionError(f"the row at position {position} is damaged")

    def _verify_tags(self, recorded: Recorded[Any]) -> int:
        """See that the index has an event's tags; tell how many."""
        keys = set(map(tag_key, recorded.tags))
        for key in keys:
            row = key, self.keys[recorded.type], recorded.position
            if self.db.execute(sql("has_tag"), row).fetchone() is None:
                raise CorruptionError(
                    f"a tag of the event at position {recorded.position} is not indexed"
                )
        return len(keys)


def _asked_for(
    query: AnyQuery, events: tuple[Recorded[E], ...]
) -> tuple[Recorded[E], ...]:
    """Leave out those that only share the hash of a tag with what was asked for.

    Raises:
        CorruptionError: the columns that were searched say something else than the
            event.
    """
    if not isinstance(query, Query):
        return events
    if not any(item.tags for item in query.items):
        for category, type in {(each.stream.category, each.type) for each in events}:
            if not matches(query, category, type, NO_TAGS):
                raise CorruptionError(
                    f"an event {type!r} of {category!r} is where others are searched"
                )
        return events
    return tuple([recorded for recorded in events if asks_for(query, recorded)])


def _refuse(_: object) -> Any:
    raise NotImplementedError


def _rising(after: int, last: int) -> Callable[[tuple[int, ...]], bool]:
    return lambda positions: (
        after < positions[0] <= positions[-1] <= last
        and sorted(positions) == list(positions)
    )


def _check_complete(name: StreamName, found: int, expected: int) -> None:
    if found != expected:
        raise CorruptionError(
            f"stream '{name}' should have {expected} events here, it has {found}"
        )
