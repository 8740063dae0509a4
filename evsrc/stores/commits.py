"""Gather appends for the next transaction while one is in flight (group commit).

Nobody waits for company: a lone append flies at once. Each append gets a verdict of its
own; a caller who gives up changes nothing for the others of a flight.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from ..core.codec import Codec, Envelope, enc_hook
from ..core.errors import EvsrcError, InvalidEventError, StoreClosedError
from ..core.event import NO_METADATA, E, Metadata, Recorded, StreamName, with_tags
from ..core.expectation import Expected
from ..ports import Appended, Conflict, Page, Placed, Write
from .transactions import MOMENTS, Line


class EncodedWrite(Struct, frozen=True, gc=False):
    """One write, ready for the database: what its events consist of, by column.

    *metas* have the tags in them; *tags* are there for the index, None: there are none.
    """

    stream: StreamName
    ids: list[bytes]
    types: list[str]
    metas: list[bytes | None]
    data: list[bytes]
    expected: Expected
    tags: Sequence[frozenset[str]] | None = None


class Job(Struct, frozen=True, gc=False):
    """One append, and what is written with it, as the store's writer takes it."""

    writes: tuple[EncodedWrite, ...]
    also: Sequence[Any]
    events: int


def encode_write(write: Write[E], codec: Codec[E]) -> EncodedWrite:
    """Check a write's events and encode them.

    Raises:
        InvalidEventError, EventTypeNotFoundError: an event cannot be stored.
    """
    name, encode, news = codec.name, codec.encode, write.events
    types = [name(new.event) for new in news]
    metas = [
        None if new.metadata is NO_METADATA else packed_metadata(new.metadata)
        for new in news
    ]
    tags = None
    if codec.tags is not None:
        tags = [codec.tags(new.event) for new in news]
        metas = list(map(with_tags, metas, tags))
    return EncodedWrite(
        write.stream,
        [new.number.to_bytes(16, "big") for new in news],
        types,
        metas,
        [encode(new.event) for new in news],
        write.expected,
        tags if tags and any(tags) else None,
    )


def packed_metadata(metadata: Metadata) -> bytes | None:
    """Encode an event's metadata; None: there are none.

    Raises:
        InvalidEventError: a value cannot be stored.
    """
    try:
        packed = _encode_metadata(metadata)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InvalidEventError("metadata", str(error)) from error
    return None if packed == b"{}" else packed


_encode_metadata: Final = msgspec.json.Encoder(enc_hook=enc_hook).encode
Verdict: TypeAlias = Appended | Conflict | EvsrcError
Commit: TypeAlias = Callable[[Sequence[Job]], Awaitable[Sequence[Verdict]]]


Added: TypeAlias = Callable[[Sequence[Verdict], int], "Page[E] | None"]
"""What a transaction has added to the log, by its verdicts and its time in us."""

_MOST_AT_HAND: Final = 50


def added_by(codec: Codec[E], jobs: Sequence[Job]) -> Added[E]:
    """Prepare what a transaction adds to the log, while it is being committed.

    It will be as a reader would find it. None: that is nothing, or too much to decode
    here and now, or something that cannot be decoded; a reader will say what is wrong.

    Args:
        codec: made the jobs.
        jobs: all of the transaction, which gives them positions without holes.
    """
    if len(jobs) != 1 or jobs[0].events != 1 or codec.restore is not None:
        return partial(_committed_page, codec, jobs)
    # one event is what a live subscriber waits for: the short way
    (write,) = jobs[0].writes
    stream, (type,), (id,), (meta,) = write.stream, write.types, write.ids, write.metas
    try:
        event = codec.decode(type, write.data[0])
    except BaseException:  # noqa: BLE001 - what is committed must not seem to fail
        return _nothing

    def lone_page(verdicts: Sequence[Verdict], at: int) -> Page[E] | None:
        verdict = verdicts[0]
        if not isinstance(verdict, Appended) or verdict.repeated:
            return None
        placed = verdict.placed[0]
        version, position = placed.version, placed.last_position
        recorded = Recorded(event, type, stream, version, position, id, meta, at)
        return Page((recorded,), position, position)

    return lone_page


def read_back(codec: Codec[E], type: str, data: bytes, envelope: Envelope) -> E | None:
    """Decode what is being committed; None: a reader will say what is wrong with it."""
    try:
        return _decoded(codec, type, data, envelope)
    except BaseException:  # noqa: BLE001 - what is committed must not seem to fail
        return None


def _decoded(codec: Codec[E], type: str, data: bytes, envelope: Envelope) -> E:
    if codec.restore is None:
        return codec.decode(type, data)
    return codec.restore(type, data, envelope)


def _nothing(_: Sequence[Verdict], __: int) -> None: ...


def _committed_page(
    codec: Codec[E], jobs: Sequence[Job], verdicts: Sequence[Verdict], at: int
) -> Page[E] | None:
    if sum([job.events for job in jobs]) > _MOST_AT_HAND:
        return None
    events: list[Recorded[E]] = []
    try:
        for job, verdict in zip(jobs, verdicts, strict=True):
            if isinstance(verdict, Appended) and not verdict.repeated:
                for write, placed in zip(job.writes, verdict.placed, strict=True):
                    events += _recorded(codec, write, placed, at)
    except BaseException:  # noqa: BLE001 - what is committed must not seem to fail
        return None
    last = events[-1].position if events else 0
    return Page(tuple(events), last, last) if events else None


def _recorded(
    codec: Codec[E], write: EncodedWrite, placed: Placed, at: int
) -> list[Recorded[E]]:
    stream, position = write.stream, placed.first_position
    version = placed.version - len(write.types) + 1
    found: list[Recorded[E]] = []
    columns = zip(write.types, write.data, write.ids, write.metas, strict=True)
    for type, data, id, meta in columns:
        event = _decoded(codec, type, data, Envelope(id, stream, version, meta))
        found.append(Recorded(event, type, stream, version, position, id, meta, at))
        version, position = version + 1, position + 1
    return found


@dataclass(slots=True, eq=False)
class _Waiting:
    job: Job
    verdict: asyncio.Future[Verdict] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Commits:
    """Appends waiting for the next transaction; while one is in flight, they gather."""

    def __init__(self, commit: Commit, *, largest: int, store: str) -> None:
        self.commit = commit
        self.largest = largest
        self.store = store
        self.waiting: deque[_Waiting] = deque()
        self.flying = False
        self.flight: asyncio.Task[None] | None = None  # that of several appends
        self.alone = False  # nobody else came while the last append was in flight
        self.closing = False
        self.landed: asyncio.Event | None = None  # somebody waits for a flight of one
        self.line = Line(store)

    async def submit(self, job: Job) -> Appended | Conflict:
        """Commit *job* with whoever else is waiting, and give its own verdict.

        Who was alone last time does not wait for others, not even for those who come
        before the event loop's next turn, and needs no task: only he can cancel it.
        """
        if self.closing:
            raise StoreClosedError(self.store)
        self.line.refuse_inside()
        if self.alone and not self.flying:
            verdict = await self._fly_alone(job)
        else:
            waiting = _Waiting(job)
            self.waiting.append(waiting)
            if not self.flying:
                self._start()
            verdict = await waiting.verdict
        if isinstance(verdict, EvsrcError):
            raise verdict
        return verdict

    async def _fly_alone(self, job: Job) -> Verdict:
        self.flying = True
        try:
            async with self.line.lock:
                (verdict,) = await self.commit((job,))
                return verdict
        finally:
            self.land()

    def take_off(self) -> bool:
        """Begin a flight of one append, unless somebody else is about.

        The flight is the caller's: he commits, and then must `land`. It does not keep
        off transactions that are held.
        """
        if self.flying or not self.alone or self.closing or self.line.open:
            return False
        self.flying = True
        return True

    def land(self) -> None:
        """End a flight of one append."""
        self.flying = False
        if self.waiting:
            self.alone = False
            self._start()
        if self.landed is not None:
            self.landed.set()

    def _start(self) -> None:
        self.flying = True
        self.flight = asyncio.create_task(self._fly())

    async def _fly(self) -> None:
        aboard: list[_Waiting] = []
        try:
            while self.waiting:
                try:
                    async with self.line.lock:
                        aboard = self._board()
                        jobs = [waiting.job for waiting in aboard]
                        verdicts = await self.commit(jobs) if jobs else ()
                except Exception as error:  # noqa: BLE001 - theirs, not ours
                    for waiting in aboard:
                        if not waiting.verdict.done():
                            waiting.verdict.set_exception(error)
                    continue
                self.alone = len(aboard) == 1 and not self.waiting
                for waiting, verdict in zip(aboard, verdicts, strict=True):
                    if not waiting.verdict.done():
                        waiting.verdict.set_result(verdict)
        finally:
            self.flying, self.flight = False, None
            for waiting in (*aboard, *self.waiting):
                waiting.verdict.cancel()
            self.waiting.clear()

    def _board(self) -> list[_Waiting]:
        """Take what fits into one transaction; leave out those who gave up."""
        aboard: list[_Waiting] = []
        events = 0
        while self.waiting and (not aboard or events < self.largest):
            waiting = self.waiting.popleft()
            if not waiting.verdict.cancelled():
                aboard.append(waiting)
                events += max(1, waiting.job.events)
        return aboard

    async def close(self) -> None:
        """Take no more appends; return when those under way have their verdicts."""
        self.closing = True
        await self.line.ended()
        with suppress(TimeoutError):
            async with asyncio.timeout(MOMENTS if self.line.open else None):
                while self.flying:
                    if self.flight is not None:
                        await asyncio.wait([self.flight])
                    else:
                        self.landed = self.landed or asyncio.Event()
                        await self.landed.wait()
