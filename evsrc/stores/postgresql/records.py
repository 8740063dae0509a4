"""Keep checkpoints, snapshots, dead letters and leases beside the events.

Leases are timed by the server's clock alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from ...core.errors import CorruptionError
from ...core.event import StreamName
from ...core.snapshot import Snapshot
from ...ports import (
    Checkpoint,
    Checkpoints,
    DeadLetter,
    DeadLetters,
    DeadLetterStatus,
    Lease,
    Leases,
    SaveCheckpoint,
    SaveDeadLetter,
    SaveSnapshot,
    Snapshots,
)
from ..rows import (
    NOT_HELD,
    Held,
    checked_row,
    lease_of,
    number_crc,
    pack_letter,
    row_crc,
    snapshot_crc,
    time_of,
    unpack_letter,
)
from .connections import Db, Server
from .schema import Statements

T = TypeVar("T")
Save: TypeAlias = Callable[[T], Awaitable[None]]

_MICROSECOND: Final = timedelta(microseconds=1)


class Records:
    """The functions, over the connections of one server."""

    def __init__(self, server: Server, statements: Statements) -> None:
        self.server = server
        self.sql = statements

    def checkpoints(self, save: Save[SaveCheckpoint]) -> Checkpoints:
        """Make the record of functions; *save* is the store's, which shares commits."""
        return Checkpoints(self.checkpoint, save, self.delete_checkpoint)

    def snapshots(self, save: Save[SaveSnapshot]) -> Snapshots:
        """Make the record of functions."""
        return Snapshots(self.snapshot, save, self.delete_snapshot)

    def dead_letters(self, save: Save[SaveDeadLetter]) -> DeadLetters:
        """Make the record of functions."""
        return DeadLetters(
            self.get, self.list, save, self.update, self.delete, self.streams
        )

    def leases(self) -> Leases:
        """Make the record of functions."""
        return Leases(self.acquire, self.renew, self.release, self.held)

    async def _fetch(self, db: Db, name: str, *arguments: Any) -> Sequence[Any]:
        rows: Sequence[Any] = await db.fetch(
            self.sql[name], *arguments, timeout=self.server.timeout
        )
        return rows

    async def _read(self, name: str, *arguments: Any) -> Sequence[Any]:
        return await self.server.run(lambda db: self._fetch(db, name, *arguments))

    async def _transaction(
        self, work: Callable[[Db], Awaitable[T]], *, repeat: bool
    ) -> T:
        async def run(db: Db) -> T:
            async with db.transaction():
                return await work(db)

        return await self.server.run(run, repeat=repeat)

    # Checkpoints and snapshots.

    async def checkpoint(self, name: str) -> Checkpoint | None:
        """Give a subscription's checkpoint."""
        for position, crc in await self._read("checkpoint", name):
            if crc != number_crc(name, position):
                raise CorruptionError(f"the stored checkpoint {name!r} is damaged")
            return Checkpoint(name, position)
        return None

    async def delete_checkpoint(self, name: str) -> None:
        """Forget a checkpoint."""
        await self._read("delete_checkpoint", name)

    async def snapshot(self, name: str) -> Snapshot[bytes] | None:
        """Give a snapshot; None also if it is damaged."""
        for version, schema, state, crc in await self._read("snapshot", name):
            if crc == snapshot_crc(name, version, schema, state):
                return Snapshot(state, version, schema)
        return None

    async def delete_snapshot(self, name: str) -> None:
        """Forget a snapshot."""
        await self._read("delete_snapshot", name)

    # Dead letters.

    async def get(self, subscription: str, event_id: UUID) -> DeadLetter | None:
        """Give a letter."""
        for row in await self._read("dead_letter", subscription, event_id):
            return unpack_letter(row)
        return None

    async def list(
        self,
        subscription: str | None = None,
        *,
        status: DeadLetterStatus | None = None,
        stream: StreamName | None = None,
        limit: int | None = 100,
    ) -> tuple[DeadLetter, ...]:
        """Give letters, the oldest first; one stream's by position; None: no limit."""
        place = (None, None) if stream is None else (stream.category, stream.id)
        rows = await self._read("dead_letters", subscription, status, limit, *place)
        return tuple(map(unpack_letter, rows))

    async def streams(self, subscription: str) -> dict[StreamName, int]:
        """Give the streams with unresolved letters, and where the first of each is."""
        rows = await self._read("dead_letter_streams", subscription)
        return {StreamName(category, id): first for category, id, first in rows}

    async def update(self, letter: DeadLetter, was: DeadLetter) -> bool:
        """Replace *was* if it is still stored exactly so."""
        values = pack_letter(letter)
        subscription, _, *others = values
        row = (subscription, letter.event_id, *others, row_crc(values))
        return await self._replace(was, "put_dead_letter", row)

    async def delete(self, letter: DeadLetter) -> bool:
        """Forget a letter if it is still stored exactly so."""
        key = (letter.subscription, letter.event_id)
        return await self._replace(letter, "delete_dead_letter", key)

    async def _replace(
        self, was: DeadLetter, statement: str, arguments: Sequence[Any]
    ) -> bool:
        key = (was.subscription, was.event_id)
        locked = self.sql["dead_letter"] + " FOR UPDATE"

        async def replace(db: Db) -> bool:
            rows = await db.fetch(locked, *key, timeout=self.server.timeout)
            if not rows or unpack_letter(rows[0]) != was:
                return False
            await self._fetch(db, statement, *arguments)
            return True

        return await self._transaction(replace, repeat=False)

    # Leases.

    async def acquire(self, name: str, owner: str, ttl: timedelta) -> Lease | None:
        """Give the lease to *owner*, unless somebody else has it."""

        async def acquire(db: Db) -> Lease | None:
            await self._fetch(db, "add_lease", name, row_crc((name, *NOT_HELD)))
            held, now = await self._held(db, name)
            if held.owner not in (None, owner) and now < held.until:
                return None
            until = now + ttl // _MICROSECOND
            return await self._put(db, name, Held(owner, held.token + 1, until))

        return await self._transaction(acquire, repeat=True)

    async def renew(self, lease: Lease, ttl: timedelta) -> Lease | None:
        """Let a lease last longer, unless it is lost."""

        async def renew(db: Db) -> Lease | None:
            held, now = await self._held(db, lease.name)
            if held.owner is None or held.token != lease.token:
                return None
            until = now + ttl // _MICROSECOND
            return await self._put(db, lease.name, held._replace(until=until))

        return await self._transaction(renew, repeat=True)

    async def release(self, lease: Lease) -> None:
        """Give a lease back; its token stays used."""

        async def release(db: Db) -> None:
            held, _ = await self._held(db, lease.name)
            if held.token == lease.token:
                await self._put(db, lease.name, held._replace(owner=None))

        await self._transaction(release, repeat=True)

    async def held(self, prefix: str) -> tuple[Lease, ...]:
        """Give the leases that somebody has."""
        rows = await self._read("leases", prefix)
        found = (lease_of(row, now) for *row, now in rows)
        return tuple(lease for lease in found if lease is not None)

    async def _held(self, db: Db, name: str) -> tuple[Held, int]:
        for *values, crc, now in await self._fetch(db, "lease", name):
            checked_row("lease", name, (name, *values), crc)
            return Held(*values), now
        return NOT_HELD, 0

    async def _put(self, db: Db, name: str, held: Held) -> Lease:
        await self._fetch(db, "put_lease", name, *held, row_crc((name, *held)))
        return Lease(name, held.owner or "", held.token, time_of(held.until))

    # All of it.

    async def verify(self) -> tuple[str, ...]:
        """Check every row; say what is damaged (of letters and leases, one)."""
        problems = [
            f"the stored checkpoint {name!r} is damaged"
            for name, position, crc in await self._read("checkpoints")
            if crc != number_crc(name, position)
        ]
        problems += [
            f"the stored snapshot {name!r} is damaged"
            for name, *stored, crc in await self._read("snapshots")
            if crc != snapshot_crc(name, *stored)
        ]
        try:
            await self.held("")
            await self.list(limit=None)
        except CorruptionError as error:
            problems.append(str(error))
        return tuple(problems)
