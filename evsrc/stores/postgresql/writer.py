"""Send many appends in one call, each judged alone, and read the verdicts.

A call whose outcome is unknown (the connection went after it was sent) is sent again:
events that are there already, by their ids, are a success.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeVar, cast
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
from ...core.expectation import AppendCondition, Expect, Expected
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
_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Sent:
    """Whether a job may have been carried out by a call whose answer never came."""

    unanswered: bool = False


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

    async def commit(self, jobs: Sequence[Job]) -> list[Verdict]:
        """Judge and write *jobs* in one transaction; give a verdict for each.

        Raises:
            StoreError: none of them was written, or (AppendOutcomeUnknownError) it
                cannot be told whether they were.
        """
        first, self.at = _Sent(), None
        try:
            if (move := self.move_call(jobs)) and await self._sent(first, move):
                return [Appended(())]
            if writes := self.lone_events(jobs):
                short = self.one_call if len(writes) == 1 else self.each_call
                done = await self._sent(first, short(writes))
                if done is not None:
                    return done
            if not _share_ids(jobs):  # such a job has to see the events of the other
                return await self._send(jobs, first, careful=False)
        except Exception as error:
            if not concerns_one_job(error):
                raise
        verdicts: list[Verdict] = []
        for job in jobs:
            verdicts += await self._commit_alone(job, _Sent(first.unanswered))
        self.at = None
        return verdicts

    async def _commit_alone(self, job: Job, sent: _Sent) -> list[Verdict]:
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
        self, jobs: Sequence[Job], sent: _Sent, *, careful: bool, queued: bool = False
    ) -> list[Verdict]:
        arguments = self.arguments(jobs)

        async def call(db: Db) -> list[Verdict]:
            return await self.call(db, jobs, arguments, careful=careful, queued=queued)

        return await self._sent(sent, call)

    async def _sent(self, sent: _Sent, call: Callable[[Db], Awaitable[T]]) -> T:
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

    def move_call(self, jobs: Sequence[Job]) -> Callable[[Db], Awaitable[Any]] | None:
        """Make the call that moves a checkpoint, if that is all there is to do.

        It gives nothing if it has to be looked at. What subscriptions commit most.
        """
        if len(jobs) != 1 or jobs[0].writes or len(jobs[0].also) != 1:
            return None
        change: Change = jobs[0].also[0]
        move, packed = change
        if not isinstance(move, SaveCheckpoint) or not move.after:
            return None
        found = move.name, move.after, number_crc(move.name, move.after)
        moved = move.position, packed["row"]["crc"], packed["writer"]

        async def call(db: Db) -> Any:
            with self.limit:
                return await db.fetchval(
                    self.statements["move_checkpoint"],
                    *(self.lossy, self.wait, *found, *moved),
                )

        return call

    def lone_events(self, jobs: Sequence[Job]) -> Sequence[EncodedWrite]:
        """Give the writes of jobs that the short functions can take, or none."""
        if self.concurrent:
            return ()
        writes = [
            job.writes[0]
            for job in jobs
            if job.events == len(job.writes) == 1 and not job.also
        ]
        if len(jobs) == 1:
            return writes
        if any(map(_needs_index, writes)):
            return ()
        apart = len({write.stream for write in writes}) == len(jobs)
        return writes if apart else ()

    def one_call(
        self, writes: Sequence[EncodedWrite]
    ) -> Callable[[Db], Awaitable[list[Verdict] | None]]:
        """Make the call for one event; it gives None if it has to be looked at."""
        (write,) = writes
        expected, tags = write.expected, write.tags
        condition: tuple[Any, ...] = None, None, None, None
        if isinstance(expected, AppendCondition):
            condition = expected.after, *asked(expected.query)
        keys = None if tags is None else tag_keys(tags[0])
        arguments = self.lossy, self.wait, *_values(write), keys, *condition

        async def call(db: Db) -> list[Verdict] | None:
            with self.limit:
                place = await db.fetchval(self.statements["append_one"], *arguments)
            if place is None:
                return None
            version, position, self.at = place
            self.head = max(self.head, position)
            return [Appended((Placed(write.stream, version, position, position),))]

        return call

    def each_call(
        self, writes: Sequence[EncodedWrite]
    ) -> Callable[[Db], Awaitable[list[Verdict] | None]]:
        """Make the call for many events; None: they have to be looked at."""
        columns = zip(*map(_values, writes), strict=True)
        arguments = self.lossy, self.wait, *columns

        async def call(db: Db) -> list[Verdict] | None:
            with self.limit:
                row = await db.fetchrow(self.statements["append_each"], *arguments)
            versions, base, self.at = row
            if base is None:
                return None
            self.head = max(self.head, base + len(writes))
            return [
                Appended((Placed(write.stream, version, position, position),))
                for position, (write, version) in enumerate(
                    zip(writes, versions, strict=True), base + 1
                )
            ]

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
        self.head, self.at = max(self.head, row["head"] or 0), row["at"]
        return _verdicts(jobs, row)

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


def _values(write: EncodedWrite) -> tuple[Any, ...]:
    """Give a write of one event as the short functions take it."""
    stream, id, type = write.stream, write.ids[0], write.types[0]
    meta, data = write.metas[0], write.data[0]
    category, name = stream.category, stream.id
    return (
        category,
        name,
        _number(write.expected),
        pgproto.UUID(id),  # sooner made than the standard library's
        type,
        meta,
        data,
        crc32(data, stream_salt(category, name) + type_salt(type)),
        crc32(meta or b"", crc32(id)),
    )


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
