"""Send many appends in one call, each judged alone, and read the verdicts.

A call whose outcome is unknown (the connection went after it was sent) is sent again:
events that are there already, by their ids, are a success.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast
from uuid import UUID, uuid4
from zlib import crc32

import asyncpg
import msgspec
from asyncpg.pgproto import pgproto

from ...core.errors import (
    AppendOutcomeUnknownError,
    CheckpointError,
    DuplicateEventError,
    EvsrcError,
    LeaseLostError,
)
from ...core.event import NO_TAGS, StreamName
from ...core.expectation import ANY, AppendCondition, Expect, Expected
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
from ..rows import LETTER, number_crc, pack_letter, row_crc, snapshot_crc
from .checks import (
    content_sums,
    rest_sums,
    stream_salt,
    type_salt,
)
from .connections import Again, Db, Limit, Server
from .errors import concerns_one_job, is_an_answer, may_be_repeated, translated
from .queries import asked, packed_conditions, tag_keys
from .schema import Statements

T = TypeVar("T")

_EXPECTED: Final = {Expect.ANY: -1, Expect.NO_STREAM: 0, Expect.STREAM_EXISTS: -2}
# the others tell by the change that they are about what was refused
_APPENDED, _CONFLICT, _REPEATED, _DUPLICATE, _CONDITION = 0, 1, 2, 3, 6
_RACES: Final = 50
_MOST_STREAMS: Final = 10_000
_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Sent:
    """Whether jobs may have been carried out by a call whose answer never came."""

    unanswered: bool = False


Short: TypeAlias = "Callable[[Db], Awaitable[list[Verdict] | None]]"
"""The call of a function for one kind of append; None: it has to be looked at."""
Place: TypeAlias = tuple[int, int]
"""The head before an event, and the version of its stream before it."""


class Known:
    """The log as our last append left it: its head, and versions of streams.

    They are what they were as long as the head is, and the connection the same: nobody
    adds to a stream without moving the head.
    """

    __slots__ = ("_alone", "_head", "_process", "_versions", "db")

    def __init__(self) -> None:
        self.db: Db = None  # what it holds on
        self._head = self._process = 0
        self.forget()

    def forget(self) -> None:
        """Take nothing for granted."""
        self._alone = False  # the last append found the head where the one before did
        self._versions: dict[StreamName, int] = {}

    def place(self, stream: StreamName, expected: Expected) -> Place | None:
        """Give the head, and the stream's version if it is known and as expected."""
        version = self._versions.get(stream)
        if version is None or not self._alone:
            return None
        fits = expected == version or expected is ANY
        return (self._head, version) if fits else None

    def holds_on(self, db: Db) -> bool:
        """Tell whether it does on *db*; another connection may be to another server.

        It is the same if the same process serves it, under whatever name a pool lends
        it.
        """
        process = db.get_server_pid()
        if self._process != process:
            self.forget()
        self.db, self._process = db, process
        return self._alone

    def appended_one(self, stream: StreamName, head: int, version: int) -> None:
        """Take note that an event has taken its place."""
        self._head, self._versions[stream] = head, version

    def appended(
        self, db: Db, before: int, head: int, verdicts: Sequence[Verdict]
    ) -> None:
        """Take note of what was appended, from after *before* to *head*."""
        self.holds_on(db)
        self._alone, self._head = before == self._head, head
        if not self._alone or len(self._versions) > _MOST_STREAMS:
            self._versions.clear()
        for verdict in verdicts:
            if isinstance(verdict, Appended) and not verdict.repeated:
                for placed in verdict.placed:
                    self._versions[placed.stream] = placed.version


class Writer:
    """Calls the store's append function; *alone*: each call is a transaction."""

    def __init__(
        self,
        server: Server,
        statements: Statements,
        *,
        concurrent: bool,
        lossy: bool,
        alone: bool = True,
    ) -> None:
        self.server = server
        # milliseconds; the server gives up first, so that the outcome is known. A
        # transaction of the caller has his own limit.
        self.wait = int(server.timeout * 800) if alone else 0
        self.statements = statements
        self.concurrent = concurrent
        self.lossy = lossy
        self.head = 0  # the highest position that a call has reported
        self.at: int | None = None  # when the one call of a commit recorded events
        self.limit = Limit(server.timeout)
        self.known = Known()

    async def commit(
        self, jobs: Sequence[Job], after: Sent | None = None
    ) -> list[Verdict]:
        """Judge and write *jobs* in one transaction; give a verdict for each.

        Args:
            jobs: what to write.
            after: another attempt has failed, so each is looked at alone.

        Raises:
            StoreError: none of them was written, or (AppendOutcomeUnknownError) it
                cannot be told whether they were.
        """
        first, self.at = after or Sent(), None
        try:
            if after is None and (short := self.short_call(jobs)):
                done = await self._sent(first, short)
                if done is not None:
                    return done
            # a job of the same ids has to see the events of the other
            if after is None and not _share_ids(jobs):
                return await self._send(jobs, first, careful=False)
        except Exception as error:
            if not concerns_one_job(error):
                raise
        verdicts: list[Verdict] = []
        for job in jobs:
            verdicts += await self._commit_alone(job, Sent(first.unanswered))
        self.at = None
        return verdicts

    async def _commit_alone(self, job: Job, sent: Sent) -> list[Verdict]:
        """Judge and write one job, looking first whether its events are there."""
        races = 0
        while True:
            try:
                return await self._send(
                    [job], sent, careful=True, queued=self.concurrent
                )
            except EvsrcError as error:
                return [error]
            except asyncpg.PostgresError as error:
                races += 1  # concurrent ordering: another process was faster
                if isinstance(error, asyncpg.UniqueViolationError) and races < _RACES:
                    continue
                ours = translated(error, self.server.where)
                if not isinstance(ours, EvsrcError):
                    raise
                ours.__cause__ = error
                return [ours]

    async def _send(
        self, jobs: Sequence[Job], sent: Sent, *, careful: bool, queued: bool = False
    ) -> list[Verdict]:
        arguments = self.arguments(jobs)

        async def call(db: Db) -> list[Verdict]:
            return await self.call(db, jobs, arguments, careful=careful, queued=queued)

        return await self._sent(sent, call)

    async def _sent(self, sent: Sent, call: Callable[[Db], Awaitable[T]]) -> T:
        """Call until there is an answer, or patience ends."""
        again: Again | None = None
        while True:
            sending = False
            try:
                async with self.server.lend_again() as db:
                    sending = True
                    return await call(db)
            except Exception as error:
                sent.unanswered |= sending and not is_an_answer(error)
                if may_be_repeated(error):
                    again = again or Again(self.server.patience)
                    if not self.server.closed and await again.pause():
                        continue
                elif concerns_one_job(error):
                    raise
                if sent.unanswered:
                    raise AppendOutcomeUnknownError(self.server.where) from error
                self.server.fail(error)

    def short_call(self, jobs: Sequence[Job]) -> Short | None:
        """Make the call for what is committed most, if that is all there is to do."""
        if len(jobs) > 1:
            return None if self.concurrent else self.each_call(jobs)
        (job,) = jobs
        if job.also:
            return None if job.writes else self.move_call(job.also)
        if self.concurrent or len(job.writes) != 1:
            return None
        (write,) = job.writes
        return self.one_call(write) if job.events == 1 else self.stream_call(write)

    def move_call(self, also: Sequence[Change]) -> Short | None:
        """Make the call that moves a checkpoint. What subscriptions commit most."""
        move, packed = also[0]
        if len(also) > 1 or not isinstance(move, SaveCheckpoint) or not move.after:
            return None
        found = move.name, move.after, number_crc(move.name, move.after)
        moved = move.position, packed["row"]["crc"], packed["writer"]

        async def call(db: Db) -> list[Verdict] | None:
            with self.limit:
                done = await db.fetchval(
                    self.statements["move_checkpoint"],
                    *(self.lossy, self.wait, *found, *moved),
                )
            return [Appended(())] if done else None

        return call

    def one_call(self, write: EncodedWrite) -> Short:
        """Make the call for one event."""
        arguments = self.lossy, self.wait, *_values(write), *_more(write)

        async def call(db: Db) -> list[Verdict] | None:
            with self.limit:
                place = await db.fetchval(self.statements["append_one"], *arguments)
            if place is None:
                return None
            version, position, self.at = place
            placed = Placed(write.stream, version, position, position)
            return self._appended(db, position - 1, position, [Appended((placed,))])

        return call

    def stream_call(self, write: EncodedWrite) -> Short | None:
        """Make the call for several events of one stream."""
        if _needs_index(write):
            return None
        category, name = write.stream.category, write.stream.id
        salts = repeat(stream_salt(category, name))
        columns = (
            list(map(pgproto.UUID, write.ids)),
            write.types,
            write.metas,
            write.data,
            list(content_sums(salts, map(type_salt, write.types), write.data)),
            list(rest_sums(write.ids, write.metas)),
        )
        arguments = (
            self.lossy,
            self.wait,
            category,
            name,
            *columns,
            _number(write.expected),
        )

        async def call(db: Db) -> list[Verdict] | None:
            with self.limit:
                row = await db.fetchrow(self.statements["append_stream"], *arguments)
            version, base, self.at = row
            if base is None:
                return None
            head = base + len(write.ids)
            placed = Placed(write.stream, version, base + 1, head)
            return self._appended(db, base, head, [Appended((placed,))])

        return call

    def _appended(
        self, db: Db, before: int, head: int, verdicts: list[Verdict]
    ) -> list[Verdict]:
        """Take note of what was appended, from after *before* to *head*."""
        self.known.appended(db, before, head, verdicts)
        self.head = max(self.head, head)
        return verdicts

    def each_call(self, jobs: Sequence[Job]) -> Short | None:
        """Make the call for many events, each in a stream of its own."""
        if not all(map(_is_one_event, jobs)):
            return None
        writes = [job.writes[0] for job in jobs]
        apart = len({write.stream for write in writes}) == len(jobs)
        if not apart or any(map(_needs_index, writes)):
            return None
        columns = zip(*map(_values, writes), strict=True)
        expected = [_number(write.expected) for write in writes]
        arguments = self.lossy, self.wait, *columns, expected

        async def call(db: Db) -> list[Verdict] | None:
            with self.limit:
                row = await db.fetchrow(self.statements["append_each"], *arguments)
            versions, base, self.at = row
            if base is None:
                return None
            verdicts: list[Verdict] = [
                Appended((Placed(write.stream, version, position, position),))
                for position, (write, version) in enumerate(
                    zip(writes, versions, strict=True), base + 1
                )
            ]
            return self._appended(db, base, base + len(verdicts), verdicts)

        return call

    async def call(
        self,
        db: Db,
        jobs: Sequence[Job],
        arguments: Sequence[Any],
        *,
        careful: bool,
        queued: bool = False,
    ) -> list[Verdict]:
        """Call the function once."""
        row = await db.fetchrow(
            self.statements["append"],
            self.concurrent,
            self.lossy,
            self.wait,
            careful,
            queued,
            *arguments,
            timeout=self.server.timeout,
        )
        head, base, self.at = row["head"] or 0, row["base"], row["at"]
        self.head = max(self.head, head)
        verdicts = _verdicts(jobs, row)
        if base is not None:
            self.known.appended(db, base, head, verdicts)
        return verdicts

    async def call_in_turn(self, db: Db, job: Job) -> Verdict:
        """Call it for one job in an open transaction that may lose races.

        Concurrent ordering: what another process commits meanwhile must not end the
        transaction, so each attempt has a savepoint.
        """
        arguments, races = self.arguments([job]), 0
        while True:
            try:
                async with db.transaction():
                    (verdict,) = await self.call(
                        db, [job], arguments, careful=True, queued=True
                    )
                    return verdict
            except asyncpg.UniqueViolationError:
                races += 1
                if races >= _RACES:
                    raise

    def arguments(self, jobs: Sequence[Job]) -> tuple[Any, ...]:
        """Give *jobs* as the function's arrays, from `_jobs` on."""
        writes = [(j, write) for j, job in enumerate(jobs, 1) for write in job.writes]
        streams = sorted({write.stream for _, write in writes})
        index = {
            name: (number, stream_salt(name.category, name.id))
            for number, name in enumerate(streams, 1)
        }
        number: list[int] = []
        ids: list[bytes] = []
        types: list[str] = []
        metas: list[bytes | None] = []
        data: list[bytes] = []
        crcs: list[int] = []
        for w, (_, write) in enumerate(writes, 1):
            number += [w] * len(write.ids)
            ids += write.ids
            types += write.types
            metas += write.metas
            data += write.data
            salt = repeat(index[write.stream][1])
            crcs += content_sums(salt, map(type_salt, write.types), write.data)
        seals = list(rest_sums(ids, metas))
        also = [
            {"job": j, "n": n, **change.packed}
            for j, job in enumerate(jobs, 1)
            for n, change in enumerate(cast("Sequence[Change]", job.also))
        ]
        return (
            len(jobs),
            [name.category for name in streams],
            [name.id for name in streams],
            [j for j, _ in writes],
            [index[write.stream][0] for _, write in writes],
            [len(write.ids) for _, write in writes],
            [_number(write.expected) for _, write in writes],
            number,
            list(map(pgproto.UUID, ids)),  # sooner made than the standard library's
            types,
            metas,
            data,
            crcs,
            seals,
            *_tag_columns(writes),
            packed_conditions(jobs),
            _encode(also).decode() if also else None,
        )


def values_of(
    stream: StreamName, id: bytes, type: str, meta: bytes | None, data: bytes
) -> tuple[Any, ...]:
    """Give an event as the short functions take it."""
    category, name = stream.category, stream.id
    return (
        category,
        name,
        pgproto.UUID(id),  # sooner made than the standard library's
        type,
        meta,
        data,
        crc32(data, stream_salt(category, name) + type_salt(type)),
        crc32(meta or b"", crc32(id)),
    )


def _values(write: EncodedWrite) -> tuple[Any, ...]:
    (id,), (type,), (meta,), (data,) = write.ids, write.types, write.metas, write.data
    return values_of(write.stream, id, type, meta, data)


def _more(write: EncodedWrite) -> tuple[Any, ...]:
    """Give the rest of it: what it expects, its tags, its condition."""
    expected, tags = write.expected, write.tags
    condition: tuple[Any, ...] = None, None, None, None
    if isinstance(expected, AppendCondition):
        condition = expected.after, *asked(expected.query)
    keys = None if tags is None else tag_keys(tags[0])
    return _number(expected), keys, *condition


def _share_ids(jobs: Sequence[Job]) -> bool:
    """Tell whether an event is in two jobs, such as an append and its repetition."""
    if len(jobs) == 1:
        return False
    ids = {id for job in jobs for write in job.writes for id in write.ids}
    return len(ids) < sum(job.events for job in jobs)


def _number(expected: Expected) -> int:
    if isinstance(expected, AppendCondition):
        expected = expected.version
    return expected if isinstance(expected, int) else _EXPECTED[expected]


def _is_one_event(job: Job) -> bool:
    return job.events == len(job.writes) == 1 and not job.also


def _needs_index(write: EncodedWrite) -> bool:
    """Tell whether a write has to do with the index of tags."""
    return write.tags is not None or isinstance(write.expected, AppendCondition)


def _tag_columns(writes: Sequence[tuple[int, EncodedWrite]]) -> tuple[Any, ...]:
    """Give events' numbers, types and tags; nothing if no event has tags."""
    if all(write.tags is None for _, write in writes):
        return None, None, None
    numbers: list[int] = []
    types: list[str] = []
    keys: list[pgproto.UUID] = []
    number = 0
    for _, write in writes:
        for type, tags in zip(
            write.types, write.tags or repeat(NO_TAGS, len(write.ids)), strict=True
        ):
            number += 1
            numbers += [number] * len(tags)
            types += [type] * len(tags)
            keys += tag_keys(tags)
    return numbers, types, keys


class Change(NamedTuple):
    """What is written beside events, as it is sent."""

    also: Also
    packed: dict[str, Any]


def packed_change(change: Also) -> Change:
    """Pack a change for the function.

    A checkpoint carries a number of its own, so that an append that is sent again
    recognises what it has done itself.

    Raises:
        ValueError: a text in it cannot be stored.
    """
    kind, name, more = _packed(change)
    packed = {"kind": kind, "name": name, **more}
    if b"\\u0000" in _encode(packed):  # also sees to lone surrogates
        raise ValueError(f"a {kind} holds a NUL, which cannot be stored: {name!r}")
    return Change(change, packed)


def _packed(change: Also) -> tuple[str, str, dict[str, Any]]:
    match change:
        case SaveCheckpoint(name, position, after):
            more = {"position": position, "crc": number_crc(name, position)}
            return "checkpoint", name, {"after": after, "writer": uuid4(), "row": more}
        case SaveSnapshot(name, Snapshot(state, version, schema)):
            crc = snapshot_crc(name, version, schema, state)
            told = {"version": version, "schema": schema, "crc": crc}
            return "snapshot", name, {"row": told | {"state": f"\\x{state.hex()}"}}
        case SaveDeadLetter(letter):
            values = pack_letter(letter)
            row = dict(zip(LETTER, (*values, row_crc(values)), strict=True))
            text = {"event_id": letter.event_id, "data": f"\\x{letter.data.hex()}"}
            return "dead letter", letter.subscription, {"row": row | text}
        case Fence(name, token):
            return "fence", name, {"token": token}


def _verdicts(jobs: Sequence[Job], row: Any) -> list[Verdict]:
    verdicts: list[Verdict] = []
    placed = zip(row["w_version"], row["w_first"], row["w_last"], strict=True)
    for job, status, about, told in zip(
        jobs, row["status"], row["about"], row["told"], strict=True
    ):
        base = (row["base"] or 0) if status == _APPENDED else 0
        where = tuple(
            [
                Placed(write.stream, version, base + first, base + last)
                for write, (version, first, last) in zip(
                    job.writes, placed, strict=False
                )
                if first is not None and last is not None
            ]
        )
        if status in (_APPENDED, _REPEATED):
            verdicts.append(Appended(where, repeated=status == _REPEATED))
        else:
            verdicts.append(_refusal(jobs, job, status, about, told))
    return verdicts


def _refusal(
    jobs: Sequence[Job], job: Job, status: int, about: int | None, told: str | None
) -> Verdict:
    if status in (_CONFLICT, _CONDITION) and about and told:
        writes = [write for each in jobs for write in each.writes]
        write = writes[about - 1]
        expected = write.expected
        if status == _CONFLICT and isinstance(expected, AppendCondition):
            expected = expected.version
        return Conflict(write.stream, expected, int(told))
    if status == _DUPLICATE and told:
        return DuplicateEventError(told, _stream_of(job, UUID(told)))
    if about is None:
        raise AssertionError(f"status {status} without a change that explains it")
    return _refused_change(job.also[about].also, told)


def _refused_change(change: Also, told: str | None) -> CheckpointError | LeaseLostError:
    actual = None if told is None else int(told)
    match change:
        case SaveCheckpoint(name, _, int(after)):
            return CheckpointError(name, after, actual or START)
        case Fence(name, token):
            return LeaseLostError(name, token, actual)
        case _:
            raise AssertionError(f"{change!r} cannot be refused")


def _stream_of(job: Job, id: UUID) -> StreamName:
    return next(write.stream for write in job.writes if id.bytes in write.ids)
