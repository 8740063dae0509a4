"""Commit many appends in one transaction, each judged alone.

Everything here runs on the writing connection's own thread.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from ...core.errors import (
    CheckpointError,
    CorruptionError,
    DuplicateEventError,
    EvsrcError,
    StoreError,
    TransactionError,
)
from ...core.event import StreamName
from ...core.expectation import ANY, AppendCondition, satisfies
from ...core.snapshot import Snapshot
from ...ports import (
    START,
    Also,
    Appended,
    Conflict,
    Fence,
    Placed,
    SaveCheckpoint,
    SaveDeadLetter,
    SaveSnapshot,
)
from ..commits import EncodedWrite, Job, Verdict
from ..rows import number_crc, snapshot_crc
from .checks import (
    content_crc,
    name_crc,
    opening,
    seal,
    sealed,
    stream_crc,
    stream_key,
    tag_key,
)
from .errors import checked_name, checked_number, checked_stream, is_fatal
from .queries import last_match
from .records import lost_lease, put_letter
from .sql import sql

_MOST_STREAMS: Final = 10_000
_LOOK: Final = 1.0  # seconds between two looks for other writers


class Committed(NamedTuple):
    """A verdict for each job, the log's new head, and when events were recorded."""

    verdicts: list[Verdict]
    head: int
    at: int


@dataclass(slots=True)
class _Stream:
    key: int
    version: int
    content: int


@dataclass(slots=True)
class _Flight:
    """What one transaction has changed so far; dropped if it fails."""

    head: int
    at: int
    streams: dict[StreamName, _Stream] = field(
        default_factory=dict[StreamName, _Stream]
    )
    names: dict[str, int] = field(default_factory=dict[str, int])
    taken: set[int] = field(default_factory=set[int])
    changed: bool = False

    def copy(self) -> _Flight:
        streams = {name: replace(stream) for name, stream in self.streams.items()}
        return replace(
            self, streams=streams, names=dict(self.names), taken=set(self.taken)
        )


class Writer:
    """The one connection that writes, and what it knows of the file.

    The streams that it has written are as it left them as long as the head is: nobody
    adds to a stream without moving the head. A transaction begins with moving it from
    where it was left, and so needs no look.
    """

    def __init__(
        self, db: sqlite3.Connection, *, watch: Callable[[], None] | None
    ) -> None:
        self.db = db
        self.names: dict[str, int] = {}
        self.watch = watch
        self.data_version: int | None = None
        self.next_look = 0.0
        # one of theirs may RAISE(FAIL), which keeps half of what a statement has done
        (triggers,) = db.execute(sql("foreign_triggers")).fetchone()
        self.only_ours = not triggers
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute(sql("append_one_view"))
        db.execute(sql("append_one_trigger"))
        self.forget()

    def forget(self) -> None:
        """Forget the head and streams: they may be different by now."""
        self.alone = False  # the last transaction found the head where it was left
        self.head: int | None = None
        self.streams: dict[StreamName, _Stream] = {}

    def commit(self, jobs: Sequence[Job]) -> Committed:
        """Judge and write *jobs*.

        First without savepoints, which is all it takes when nothing goes wrong; if a
        statement fails, everything is judged anew with one savepoint a job, so that a
        bad job fails alone.
        """
        try:
            if len(jobs) == 1:
                if at := self._moves(jobs[0]):
                    return Committed([Appended(())], START, at)
                if done := self._append_one(jobs[0]):
                    return done
            return self._transaction(jobs, self._append)
        except (sqlite3.Error, OverflowError, ValueError) as error:
            if is_fatal(error):
                raise
            return self._transaction(jobs, self._append_alone)

    def _moves(self, job: Job) -> int:
        """Move a checkpoint, if that is all there is to do; give when, or 0: it is not.

        One statement, and with it one wait for the interpreter's lock, which whoever
        reads the next page holds most of the time.
        """
        if job.writes or len(job.also) != 1:
            return 0
        (change,) = job.also
        if not isinstance(change, SaveCheckpoint) or not change.after:
            return 0
        name, position, after = change.name, change.position, change.after
        at = time.time_ns() // 1000
        moved = position, at, number_crc(name, position)
        found = name, after, number_crc(name, after)
        done = self.db.execute(sql("move_checkpoint"), (*moved, *found))
        return at if done.rowcount == 1 else 0

    def _append_one(self, job: Job) -> Committed | None:
        """Add one event to a stream that is known, if that is all there is to do.

        It gives nothing if it has to be looked at. What is appended most, again in one
        statement: 7 % less from a lone append to its handler.
        """
        if not self.alone or job.events != 1 or job.also or len(job.writes) != 1:
            return None
        (write,), head = job.writes, self.head or START
        name, expected, (type_name,) = write.stream, write.expected, write.types
        stream, known = self.streams.get(name), self.names
        category, type = known.get(name.category), known.get(type_name)
        if stream is None or not stream.version or category is None or type is None:
            return None
        if expected != stream.version and expected is not ANY:
            return None
        if write.tags is not None or self._is_to_look():
            return None
        key, position, version = stream.key, head + 1, stream.version + 1
        (id,), (meta,), (data,) = write.ids, write.metas, write.data
        at = time.time_ns() // 1000
        envelope = seal(position, key, version, type, id, at, b"", meta, data)
        event = position, key, version, category, type, at, envelope, meta, data
        content = content_crc((type,), (data,), stream.content)
        sums = number_crc("head", position), content
        crc = stream_crc(key, name.category, name.id, version, content)
        try:
            self.db.execute(sql("append_one"), (*event, *sums, crc))
        except sqlite3.IntegrityError:
            self.forget()
            return None
        self.head, stream.version, stream.content = position, version, content
        placed = Placed(name, version, position, position)
        return Committed([Appended((placed,))], position, at)

    def _transaction(
        self, jobs: Sequence[Job], append: Callable[[_Flight, Job], Verdict]
    ) -> Committed:
        db = self.db
        try:
            head = self.begin(sum([job.events for job in jobs]))
            self._flight = _Flight(head, time.time_ns() // 1000)
            verdicts = [append(self._flight, job) for job in jobs]
            flight = self._flight
            if flight.changed:
                self._put(flight)
            db.execute("COMMIT" if flight.changed else "ROLLBACK")
        except BaseException:
            self.roll_back()
            raise
        self.names |= flight.names
        self._remember(flight)
        return Committed(verdicts, flight.head, flight.at)

    def _remember(self, flight: _Flight) -> None:
        if len(self.streams) > _MOST_STREAMS:
            self.streams.clear()
        self.head = flight.head
        self.streams |= flight.streams

    def _put(self, flight: _Flight) -> None:
        """Store what the events of a flight have changed: streams, and the head."""
        self.db.executemany(
            sql("put_stream"),
            [
                (
                    s.key,
                    n.category,
                    n.id,
                    s.version,
                    s.content,
                    stream_crc(s.key, n.category, n.id, s.version, s.content),
                )
                for n, s in flight.streams.items()
                if s.version
            ],
        )
        if flight.head != self.moved:
            self._move_head(self.moved, flight.head)

    def _move_head(self, before: int, head: int) -> bool:
        """Store the log's new head; False: the one before is not there any more."""
        row = head, number_crc("head", head), before
        self.moved = head
        return self.db.execute(sql("move_head"), row).rowcount == 1

    # A transaction of the user's: begin, append (often), then end or roll back.

    def begin(self, events: int = 0) -> int:
        """Take the file's write lock and move the log's head; give where it was."""
        self.db.execute("BEGIN IMMEDIATE")
        if self._is_to_look():
            self._look_for_others()
        head = self.head
        if head is not None and events:
            if self._move_head(head, head + events):
                self.alone = self.only_ours
                return head
            self.forget()
        self.moved = read_head(self.db) if self.head is None else self.head
        return self.moved

    def _is_to_look(self) -> bool:
        return self.watch is not None and time.monotonic() >= self.next_look

    def _look_for_others(self) -> None:
        """Tell who watches, once, if others have committed since the last look."""
        (version,) = self.db.execute("PRAGMA data_version").fetchone()
        if self.data_version not in (None, version):
            watch, self.watch = self.watch, None
            if watch is not None:
                watch()
        self.data_version, self.next_look = version, time.monotonic() + _LOOK

    def open(self) -> None:
        """Begin a transaction in which jobs come one by one."""
        self.forget()
        self._flight = _Flight(self.begin(), 0)

    def append(self, job: Job) -> Verdict:
        """Judge and write one job in the open transaction, up to the last row of it."""
        self.check_open()
        done = self._flight
        self._flight = _Flight(done.head, time.time_ns() // 1000, names=done.names)
        verdict = self._append_alone(self._flight, job)
        if self._flight.changed:
            self._put(self._flight)
        return verdict

    def end(self) -> int:
        """Commit the open transaction; give the log's new head.

        Raises:
            TransactionError: a statement of somebody else's has undone an append.
        """
        self.check_open()
        if read_head(self.db) != self._flight.head:
            raise TransactionError(
                "a ROLLBACK TO inside the transaction has undone an append; to undo "
                "one, leave the block by an error, which undoes everything"
            )
        self.db.execute("COMMIT")
        self.names |= self._flight.names
        return self._flight.head

    def check_open(self) -> None:
        """Refuse to go on after a statement of somebody else's ended the transaction.

        Raises:
            TransactionError: it did.
        """
        if not self.db.in_transaction:
            raise TransactionError(
                "a statement inside the transaction has ended it; use neither COMMIT "
                "nor ROLLBACK in the block: leave it, or raise"
            )

    def roll_back(self) -> None:
        """Undo what is not committed."""
        self.forget()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def _append(self, flight: _Flight, job: Job) -> Verdict:
        try:
            refused: Conflict | EvsrcError | None = self._conflict(flight, job)
            if refused is None and job.also:
                refused = self._refused(job.also)
        except CorruptionError as error:  # of this job's stream: others are not in it
            return error
        if refused is not None:
            return self._repeated(flight, job) or refused
        placed = tuple([self._place(flight, write) for write in job.writes])
        for change in job.also:
            self._change(flight, change)
        flight.changed = True
        return Appended(placed)

    def _append_alone(self, flight: _Flight, job: Job) -> Verdict:
        db = self.db
        before = flight.copy()
        db.execute("SAVEPOINT job")
        try:
            verdict = self._append(flight, job)
        except (sqlite3.Error, OverflowError, ValueError, EvsrcError) as error:
            if is_fatal(error):
                raise
            db.execute("ROLLBACK TO job")
            self._flight = before
            verdict = self._explained(before, job, error)
        db.execute("RELEASE job")
        return verdict

    def _explained(self, flight: _Flight, job: Job, error: Exception) -> Verdict:
        """Say why one job could not be written; perhaps it was written before."""
        if isinstance(error, EvsrcError):
            return error
        if not isinstance(error, sqlite3.IntegrityError):
            failed = StoreError(f"append refused by SQLite: {error}")
            failed.__cause__ = error
            return failed
        repeated = self._repeated(flight, job)
        if repeated is not None:
            return repeated
        seen: set[bytes] = set()
        for write in job.writes:
            for id in write.ids:
                if id in seen or self.db.execute(sql("place"), (id,)).fetchone():
                    return DuplicateEventError(_uuid(id), write.stream)
                seen.add(id)
        return CorruptionError(f"a position or version is taken already: {error}")

    def _conflict(self, flight: _Flight, job: Job) -> Conflict | None:
        ahead: dict[StreamName, int] = {}
        for write in job.writes:
            name = write.stream
            actual = ahead.get(name)
            if actual is None:
                actual = self._stream(flight, name).version
            expected = write.expected
            if not satisfies(expected, actual):
                version = getattr(expected, "version", expected)
                return Conflict(name, version, actual)
            if isinstance(expected, AppendCondition):
                against = self._against(flight, expected)
                if against is not None:
                    return Conflict(name, expected, against)
            ahead[name] = actual + len(write.ids)
        return None

    def _against(self, flight: _Flight, condition: AppendCondition) -> int | None:
        """Give the position of an event that stands against *condition*."""
        query, known = condition.query, self.names | flight.names

        def key_of(name: str) -> int:
            nonlocal known
            if name not in known:
                known = {name: -1} | known | self._all_names(flight)
            return known[name]

        return last_match(self.db, query, key_of, condition.after, flight.head)

    def _stream(self, flight: _Flight, name: StreamName) -> _Stream:
        known = flight.streams.get(name) or self.streams.get(name)
        # one that is not there has no key yet: another one may have taken it since
        if known is None or (not known.version and known.key in flight.taken):
            known = _Stream(*find_stream(self.db, name, flight.taken))
        flight.streams[name] = known
        return known

    def _place(self, flight: _Flight, write: EncodedWrite) -> Placed:
        name, metas, data = write.stream, write.metas, write.data
        stream, count = self._stream(flight, name), len(data)
        if not stream.version:
            flight.taken.add(stream.key)
        first, version = flight.head + 1, stream.version + 1
        category = self._name(flight, name.category)
        opens = opening(name.category, name.id) if version == 1 else b""
        if count == 1:
            types = [type := self._name(flight, write.types[0])]
            place, payload = (first, stream.key, version), (opens, metas[0], data[0])
            envelope = seal(*place, type, write.ids[0], flight.at, *payload)
            row = *place, category, type, flight.at, envelope, *payload
            self.db.execute(sql("put_event"), row)
        else:
            known = {
                each: self._name(flight, each) for each in dict.fromkeys(write.types)
            }
            types = [known[each] for each in write.types]
            versions = range(version, version + count)
            places = range(first, first + count), [stream.key] * count, versions
            times = [flight.at] * count
            payloads = [opens, *[b""] * (count - 1)], metas, data
            envelopes = sealed(*places, types, write.ids, times, *payloads)
            columns = [category] * count, types, times, envelopes, *payloads
            rows = zip(*places, *columns, strict=True)
            self.db.executemany(sql("put_event"), rows)
        if write.tags is not None:
            tagged = zip(write.tags, types, range(first, first + count), strict=True)
            index = {(tag_key(tag), t, p) for tags, t, p in tagged for tag in tags}
            self.db.executemany(sql("put_tag"), index)
        stream.content = content_crc(types, data, stream.content)
        stream.version += count
        flight.head += count
        return Placed(name, stream.version, first, flight.head)

    def _name(self, flight: _Flight, name: str) -> int:
        key = self.names.get(name) or flight.names.get(name)
        if key is None:
            key = self._all_names(flight).get(name)
        if key is None:
            key = len(flight.names) + 1
            self.db.execute(sql("add_name"), (key, name, name_crc(key, name)))
            flight.names[name] = key
        return key

    def _all_names(self, flight: _Flight) -> dict[str, int]:
        """Read the names anew: another process may have added some."""
        for known, text, crc in self.db.execute(sql("names")):
            flight.names[checked_name(known, text, crc)] = known
        return flight.names

    def _repeated(self, flight: _Flight, job: Job) -> Appended | None:
        """Tell where these events already are, if all are, in the same places."""
        placed: list[Placed] = []
        for write in job.writes:
            key = self._stream(flight, write.stream).key
            first: tuple[int, int] | None = None
            last = START
            for offset, id in enumerate(write.ids):
                found = self.db.execute(sql("place"), (id,)).fetchone()
                if found is None or found[0] != key:
                    return None
                first = first or (found[1], found[2])
                if found[1] != first[0] + offset:
                    return None
                last = found[2]
            if first is None:
                return None
            version = first[0] + len(write.ids) - 1
            placed.append(Placed(write.stream, version, first[1], last))
        return Appended(tuple(placed), repeated=True) if placed else None

    def _refused(self, also: Sequence[Also]) -> EvsrcError | None:
        for change in also:
            refused: EvsrcError | None = None
            match change:
                case SaveCheckpoint(name, _, after) if after is not None:
                    actual = read_checkpoint(self.db, name) or START
                    if actual != after:
                        refused = CheckpointError(name, after, actual)
                case Fence():
                    refused = lost_lease(self.db, change)
                case _:
                    pass
            if refused is not None:
                return refused
        return None

    def _change(self, flight: _Flight, change: Also) -> None:
        match change:
            case SaveCheckpoint(name, position):
                crc = number_crc(name, position)
                row = (name, position, flight.at, crc)
                self.db.execute(sql("put_checkpoint"), row)
            case SaveSnapshot(name, Snapshot(state, version, schema)):
                crc = snapshot_crc(name, version, schema, state)
                self.db.execute(
                    sql("put_snapshot"), (name, version, schema, state, crc, flight.at)
                )
            case SaveDeadLetter(letter):
                put_letter(self.db, letter)
            case Fence():
                pass


def read_head(db: sqlite3.Connection) -> int:
    """Give the log's last position."""
    row = db.execute(sql("head")).fetchone()
    return checked_number("number", "head", *(row or (None, None)))


def read_checkpoint(db: sqlite3.Connection, name: str) -> int | None:
    """Give the position of a checkpoint."""
    row = db.execute(sql("checkpoint"), (name,)).fetchone()
    return None if row is None else checked_number("checkpoint", name, *row)


def find_stream(
    db: sqlite3.Connection, name: StreamName, taken: Container[int] = ()
) -> tuple[int, int, int]:
    """Give a stream's key, version and content; one that is not there has version 0.

    *taken* are keys that the running transaction has given to other streams.

    Raises:
        CorruptionError: the row is damaged, or it is gone while its events are there.
    """
    key = stream_key(name.category, name.id)
    while True:
        row = db.execute(sql("stream"), (key,)).fetchone()
        if row is None and key not in taken:
            if db.execute(sql("stream_has_events"), (key,)).fetchone():
                raise CorruptionError(
                    f"stream '{name}' has events, but its row is gone"
                )
            return key, 0, 0
        if row is not None:
            found, version = checked_stream(key, *row)
            if found == name:
                return key, version, row[3]
        key += 1  # two names with one hash: the later one took the next free key


def _uuid(packed: bytes) -> str:
    text = packed.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
