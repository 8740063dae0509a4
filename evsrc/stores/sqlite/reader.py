"""Read pages and streams, and hold every byte against its checksum.

Everything here runs on a reading connection's own thread, each call in one snapshot.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic

from ...core.codec import Codec, Envelope
from ...core.errors import CorruptionError
from ...core.event import NO_TAGS, E, Recorded, StreamName
from ...core.expectation import AnyQuery, Query, asks_for, matches
from ...core.snapshot import Snapshot
from ...ports import START, Checkpoint, Loaded, Page
from ..rows import snapshot_crc
from .checks import (
    WHOLE,
    agrees,
    are_whole,
    content_crc,
    row_sums,
    tag_key,
    unpacked,
)
from .errors import checked_name, checked_stream
from .queries import Asked
from .records import verify_records
from .sql import sql
from .writer import find_stream, read_checkpoint, read_head

_WINDOW: Final = 100_000
_MOST_STREAMS: Final = 50_000
_LAST: Final = 2**62


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
            rows = self.db.execute(sql(statement), (key, bound, count)).fetchall()
        _check_complete(name, len(rows), count)
        self.streams[key] = name
        events = self._recorded(*zip(*rows, strict=True))
        versions = range(bound + step, bound + step * (count + 1), step)
        for recorded, version in zip(events, versions, strict=True):
            if recorded.version != version or recorded.stream != name:
                raise CorruptionError(f"stream {str(name)!r} is damaged at {version}")
        return Page(events, versions[-1], head)

    # The log.

    def read_all(self, query: AnyQuery, after: int, limit: int) -> Page[E]:
        """Give a page of the log; it scans no more than a window of positions."""
        with self._snapshot():
            head = self.head()
            if after >= head or limit <= 0:
                return Page((), after, head)
            asked = self._asked(query)
            end = min(head, after + _WINDOW) if asked is None or asked.scans else head
            positions, columns = self._found(asked, after, end, limit)
        if not positions:
            return Page((), end, head)
        events = self._recorded(positions, *columns)
        reached = positions[-1] if len(positions) == limit else end
        return Page(_asked_for(query, events), reached, head)

    def read_backward(self, query: AnyQuery, before: int, limit: int) -> Page[E]:
        """Give a page of the log before a position (START: its end), newest first."""
        with self._snapshot():
            head = self.head()
            last = min(before - 1, head) if before else head
            if last <= START or limit <= 0:
                return Page((), before if limit <= 0 else START, head)
            asked = self._asked(query)
            start = START if asked and not asked.scans else max(START, last - _WINDOW)
            positions, columns = self._found(asked, start, last, limit, backward=True)
        events = self._recorded(positions, *columns) if positions else ()
        reached = start + 1 if start else START
        if len(positions) == limit:
            reached = positions[-1]
        return Page(_asked_for(query, events), reached, head)

    def _found(
        self,
        asked: Asked | None,
        after: int,
        last: int,
        limit: int,
        *,
        backward: bool = False,
    ) -> tuple[Sequence[int], list[Sequence[Any]]]:
        """Give the positions of what is asked for (None: of everything), and the rest.

        As columns: rows that live on would be walked through by the collector.
        """
        if asked is None:
            return self._every(after, last, limit, backward=backward)
        if asked.tagged or backward:
            found = asked.positions(self.db, after, last, limit, backward=backward)
            rows = self.db.execute(sql("events_at"), (json.dumps(found),)).fetchall()
            if len(rows) != len(found):
                raise CorruptionError("the index of tags has events that are not there")
            rows = rows[::-1] if backward else rows
        else:
            bounds = after, last, asked.untagged, limit
            rows = self.db.execute(sql("log_page_matching"), bounds).fetchall()
        positions, *columns = zip(*rows, strict=True) if rows else ((),)
        return positions, list(columns)

    def _every(
        self, after: int, last: int, limit: int, *, backward: bool
    ) -> tuple[Sequence[int], list[Sequence[Any]]]:
        count = min(last - after, limit)
        statement, first, end = "log_page", after + 1, after + count
        if backward:
            statement, first, end = "log_page_backward", last - count + 1, last
        rows = self.db.execute(sql(statement), (after, last, count)).fetchall()
        if len(rows) != count:
            raise CorruptionError(f"positions {first} to {end} are not all in the log")
        positions = range(first, end + 1)
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
        return tuple(reversed(positions) if backward else positions), columns

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
        row = self.db.execute(sql("find"), (event_id,)).fetchone()
        return None if row is None else self._recorded(*zip(row, strict=True))[0]

    # Rows to events.

    def _recorded(
        self,
        positions: Sequence[int],
        envelopes: Sequence[bytes],
        metas: Sequence[bytes | None],
        data: Sequence[bytes],
    ) -> tuple[Recorded[E], ...]:
        """Give checked rows as events; columns, not rows, so that loops run in C."""
        row = positions, envelopes, metas, data
        try:
            whole = are_whole(*row)
        except TypeError as error:  # of another type than was written
            raise CorruptionError(f"a row of the log is damaged: {error}") from error
        if not whole:
            checked = zip(positions, row_sums(*row), strict=True)
            position = next(at for at, sum in checked if sum != WHOLE)
            raise CorruptionError(f"the event at position {position} is damaged")
        ids, keys, versions, times, types = unpacked(envelopes)
        self._learn_names(types)
        streams = self._streams_of(keys)
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

    def _streams_of(self, keys: Sequence[int]) -> list[StreamName]:
        try:
            return list(map(self.streams.__getitem__, keys))
        except KeyError:
            self._learn_streams(keys)
        return list(map(self.streams.__getitem__, keys))

    def _learn_streams(self, keys: Iterable[int]) -> None:
        if len(self.streams) > _MOST_STREAMS:
            self.streams.clear()
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
            "WHERE s.category IS NOT n.name LIMIT 1"
        ).fetchall()
        for (position,) in strays:
            raise CorruptionError(f"the category at position {position} is damaged")

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


def _check_complete(name: StreamName, found: int, expected: int) -> None:
    if found != expected:
        raise CorruptionError(
            f"stream '{name}' should have {expected} events here, it has {found}"
        )
