"""The append side of a store, behind group commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Generic, TypeAlias

from ...core.codec import Codec, Envelope
from ...core.errors import EvsrcError, InvalidEventError
from ...core.event import NO_METADATA, E, Recorded
from ...ports import Also, Appended, AtHand, Conflict, Page, Placed, ReadAll, Write
from ..commits import (
    Added,
    Commits,
    Job,
    Verdict,
    added_by,
    encode_write,
    packed_metadata,
    read_back,
)
from .errors import is_an_answer
from .notices import Notices
from .writer import Place, Sent, Writer, packed_change, values_of

Encoded: TypeAlias = tuple[bytes, str, "bytes | None", bytes]
"""What is stored of an event: id, type, metadata, data."""


class Encoder(Generic[E]):
    """Turns writes into jobs; the codec checks events on the way."""

    def __init__(self, codec: Codec[E]) -> None:
        self.codec = codec
        self.types: set[str] = set()

    def one(self, write: Write[E]) -> Encoded | None:
        """Encode the one event of a write; None: there are more, or it has tags."""
        if len(write.events) != 1:
            return None
        (new,), codec = write.events, self.codec
        event, metadata = new.event, new.metadata
        type = codec.name(event)
        if codec.tags is not None and codec.tags(event):
            return None
        if type not in self.types:
            self.types.add(_checked_type(type))
        meta = None if metadata is NO_METADATA else packed_metadata(metadata)
        return new.number.to_bytes(16, "big"), type, meta, codec.encode(event)

    def job(self, writes: Sequence[Write[E]], also: Sequence[Also]) -> Job:
        """Encode whatever is written together."""
        encoded = tuple([encode_write(write, self.codec) for write in writes])
        for write in encoded:
            if not self.types.issuperset(write.types):
                self.types.update(map(_checked_type, write.types))
        changes = tuple(map(packed_change, also)) if also else ()
        return Job(encoded, changes, sum([len(write.ids) for write in encoded]))


def _checked_type(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidEventError(name, str(error)) from error
    if "\0" in name:
        raise InvalidEventError(name, "the stored name holds a NUL")
    return name


class Appending(Generic[E]):
    """The append side of a store, behind group commit."""

    def __init__(
        self,
        encoder: Encoder[E],
        writer: Writer,
        notices: Notices,
        read_all: ReadAll[E],
        largest: int,
    ) -> None:
        self.encoder = encoder
        self.read_all = read_all
        self.writer = writer
        self.notices = notices
        where = writer.server.where
        self.commits = Commits(self.commit, largest=largest, store=where)

    async def append(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        """Append, as the port says."""
        if len(writes) == 1 and not also and self.commits.take_off():
            try:
                (write,) = writes
                place = self.writer.known.place(write.stream, write.expected)
                if place is not None and (one := self.encoder.one(write)) is not None:
                    return await self.next(write, one, place)
            finally:
                self.commits.land()
        return await self.commits.submit(self.encoder.job(writes, also))

    async def next(
        self, write: Write[E], one: Encoded, place: Place
    ) -> Appended | Conflict:
        """Append one more event to a stream that is known, while nobody else is about.

        What is appended most, in few steps: a process that has slept has cold caches,
        and there each of them takes ten times as long as in a loop. From the call to a
        handler, the usual way is 7 % longer.
        """
        codec, writer, stream = self.encoder.codec, self.writer, write.stream
        (id, type, meta, data), (head, version) = one, (place[0] + 1, place[1] + 1)
        event: E | None = None

        def meanwhile() -> None:
            nonlocal event
            event = read_back(codec, type, data, Envelope(id, stream, version, meta))

        if self.notices.wakeup.awaited:
            asyncio.get_running_loop().call_soon(meanwhile)  # the server is at work
        values, at, failed, sending = values_of(stream, *one), None, None, False
        try:
            async with writer.server.lend_again() as db:
                if writer.known.db is db or writer.known.holds_on(db):
                    sending = True
                    with writer.limit:
                        at = await db.fetchval(
                            writer.statements["append_next"],
                            *(writer.lossy, writer.wait, *values, *place),
                        )
        except Exception as error:  # noqa: BLE001 - the usual way says what is wrong
            failed = Sent(sending and not is_an_answer(error))
        if at is None:
            writer.known.forget()
            jobs = [self.encoder.job((write,), ())]
            (verdict,) = await self.commit(jobs, failed)
            if isinstance(verdict, EvsrcError):
                raise verdict
            return verdict
        writer.known.appended_one(stream, head, version)
        writer.head = max(writer.head, head)
        page: Page[E] | None = None
        if event is not None:
            recorded = Recorded(event, type, stream, version, head, id, meta, at)
            page = Page((recorded,), head, head)
        self.committed(writer.head, page)
        return Appended((Placed(stream, version, head, head),))

    async def save(self, change: Also) -> None:
        """Write a checkpoint, a snapshot or a dead letter by itself."""
        await self.commits.submit(self.encoder.job((), (change,)))

    async def commit(
        self, jobs: Sequence[Job], after: Sent | None = None
    ) -> Sequence[Verdict]:
        """Carry out a flight; tell whoever waits for what it has added."""
        codec, writer, page = self.encoder.codec, self.writer, None
        added: Added[E] | None = None

        def meanwhile() -> None:
            nonlocal added
            added = added_by(codec, jobs)

        awaited = self.notices.wakeup.awaited and not writer.concurrent  # else: holes
        if awaited:
            asyncio.get_running_loop().call_soon(meanwhile)  # the server is at work
        verdicts = await writer.commit(jobs, after)
        if added is not None and writer.at is not None:
            page = added(verdicts, writer.at)
        for job, verdict in zip(jobs, verdicts, strict=True):
            if job.events and isinstance(verdict, Appended):
                self.committed(writer.head, page)
                break
        return verdicts

    def committed(self, head: int, page: Page[E] | None = None) -> None:
        """Tell of a commit here, and to other processes; *page*: what it has added."""
        self.notices.wakeup.advance(head, page)
        self.notices.committed(look=self.writer.concurrent)

    async def changed(self, position: int, *, timeout: timedelta) -> AtHand[E] | None:
        """Wait until there may be more after *position*, as the port says."""
        wakeup = self.notices.wakeup
        if wakeup.head > position or self.commits.closing:
            return None
        self.notices.waiting()
        page = await wakeup.wait(position, timeout)
        return None if page is None else AtHand(self.read_all, page)

    async def close(self) -> None:
        """Append no more; wait for what is under way, and wake who waits."""
        await self.commits.close()
        await self.notices.close()
        self.notices.wakeup.rouse()
