"""Keep dead letters and leases in memory, beside the memory store's events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from operator import attrgetter
from uuid import UUID

from msgspec.structs import replace

from ..core.errors import LeaseLostError
from ..core.event import StreamName
from ..ports import (
    DeadLetter,
    DeadLetters,
    DeadLetterStatus,
    Fence,
    Lease,
    Leases,
    SaveDeadLetter,
)

_age = attrgetter("first_failed_at", "position", "event_id")
_place = attrgetter("position", "event_id")


class MemoryRecords:
    """Two dicts; each call is one step for everyone else.

    Args:
        check_open: refuses what comes after the store was closed.
        free: waits for a transaction that is open, before anything is changed.
        now: the clock that leases expire by.
    """

    def __init__(
        self,
        check_open: Callable[[], None],
        free: Callable[[], Awaitable[None]],
        now: Callable[[], datetime],
    ) -> None:
        self.check_open = check_open
        self.free = free
        self.now = now
        self.letters: dict[tuple[str, UUID], DeadLetter] = {}
        self.leased: dict[str, Lease] = {}
        self.tokens: dict[str, int] = {}  # the last one given out, also when released

    def dead_letters(
        self, save: Callable[[SaveDeadLetter], Awaitable[None]]
    ) -> DeadLetters:
        """Give the record; *save* is the store's."""
        return DeadLetters(
            self.get, self.list, save, self.update, self.delete, self.streams
        )

    def leases(self) -> Leases:
        """Give the record."""
        return Leases(self.acquire, self.renew, self.release, self.held)

    # Dead letters.

    def put(self, letter: DeadLetter) -> None:
        """Store a letter, instead of the one with its key."""
        self.letters[letter.subscription, letter.event_id] = letter

    async def get(self, subscription: str, event_id: UUID) -> DeadLetter | None:
        """Give a letter."""
        self.check_open()
        return self.letters.get((subscription, event_id))

    async def list(
        self,
        subscription: str | None = None,
        *,
        status: DeadLetterStatus | None = None,
        stream: StreamName | None = None,
        limit: int = 100,
    ) -> tuple[DeadLetter, ...]:
        """Give letters, the oldest first; those of one stream by position."""
        self.check_open()
        found = [
            letter
            for letter in self.letters.values()
            if subscription in (None, letter.subscription)
            and status in (None, letter.status)
            and stream in (None, letter.stream)
        ]
        return tuple(sorted(found, key=_age if stream is None else _place)[:limit])

    async def streams(self, subscription: str) -> dict[StreamName, int]:
        """Give the streams with unresolved letters, and where the first of each is."""
        self.check_open()
        first: dict[StreamName, int] = {}
        for letter in self.letters.values():
            at, stream = letter.position, letter.stream
            mine = letter.subscription == subscription and letter.status != "resolved"
            if mine and stream is not None:
                first[stream] = min(at, first.get(stream, at))
        return first

    def is_stored(self, letter: DeadLetter) -> bool:
        """Tell whether a letter is stored exactly so."""
        self.check_open()
        return self.letters.get((letter.subscription, letter.event_id)) == letter

    async def update(self, letter: DeadLetter, was: DeadLetter) -> bool:
        """Replace *was* if it is still there."""
        await self.free()
        unchanged = self.is_stored(was)
        if unchanged:
            self.put(letter)
        return unchanged

    async def delete(self, letter: DeadLetter) -> bool:
        """Forget *letter* if it is still there."""
        await self.free()
        unchanged = self.is_stored(letter)
        if unchanged:
            del self.letters[letter.subscription, letter.event_id]
        return unchanged

    # Leases.

    def check(self, fence: Fence) -> None:
        """Refuse a token that is not the valid one."""
        lease = self.leased.get(fence.name)
        if lease is None or lease.token != fence.token:
            actual = None if lease is None else lease.token
            raise LeaseLostError(fence.name, fence.token, actual)

    async def acquire(self, name: str, owner: str, ttl: timedelta) -> Lease | None:
        """Give the lease to *owner*, unless somebody else has it."""
        await self.free()
        self.check_open()
        now, held = self.now(), self.leased.get(name)
        if held is not None and held.owner != owner and now < held.until:
            return None
        self.tokens[name] = token = self.tokens.get(name, 0) + 1
        self.leased[name] = lease = Lease(name, owner, token, now + ttl)
        return lease

    def holds(self, lease: Lease) -> bool:
        """Tell whether a lease is not lost."""
        self.check_open()
        held = self.leased.get(lease.name)
        return held is not None and held.token == lease.token

    async def renew(self, lease: Lease, ttl: timedelta) -> Lease | None:
        """Let a lease last longer, unless it is lost."""
        await self.free()
        if not self.holds(lease):
            return None
        renewed = replace(self.leased[lease.name], until=self.now() + ttl)
        self.leased[lease.name] = renewed
        return renewed

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        await self.free()
        if self.holds(lease):
            del self.leased[lease.name]

    async def held(self, prefix: str) -> tuple[Lease, ...]:
        """Give the leases that somebody has."""
        self.check_open()
        now = self.now()
        return tuple(
            lease
            for name, lease in sorted(self.leased.items())
            if name.startswith(prefix) and now < lease.until
        )
