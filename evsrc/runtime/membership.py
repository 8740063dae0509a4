"""Know which workers share a subscription, and which partitions each of them has.

A worker that is alive has a seat: one of the leases `name#worker/0`, `name#worker/1`
and so on. Seats are used again, so there are never more of them than there were workers
at once. The partitions are the leases `name#0`, `name#1` and so on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from itertools import count
from typing import Final, NamedTuple

from ..core.errors import SubscriptionStateError
from ..core.partition import assign
from ..ports import Lease, Leases

_SEAT: Final = "worker/"
_LATE: Final = 2  # leases, for what was given up to take effect


def _now() -> float:
    return asyncio.get_running_loop().time()


class Sight(NamedTuple):
    """Who is there and who has what, as one worker saw it."""

    members: frozenset[str]
    owners: Mapping[int, str]
    target: Mapping[int, str]

    def of(self, owner: str) -> list[int]:
        """Give the partitions that a worker should have."""
        return [number for number, member in self.target.items() if member == owner]

    def with_those(self, owner: str, numbers: Iterable[int]) -> Sight:
        """Give what it looks like when *owner* has these, too."""
        return self._replace(owners={**self.owners, **dict.fromkeys(numbers, owner)})

    @property
    def balanced(self) -> bool:
        """Whether each partition is where it should be."""
        return self.owners == self.target

    @property
    def shares(self) -> dict[str, tuple[int, ...]]:
        """Give the partitions that each worker has."""
        return {
            member: tuple(n for n, owner in self.owners.items() if owner == member)
            for member in sorted(self.members)
        }


class Membership:
    """A worker's part in it.

    Args:
        leases: the store's.
        name: of the subscription.
        owner: of the worker.
        partitions: how many there are.
        ttl: how long a lease lasts.
    """

    def __init__(
        self, leases: Leases, name: str, owner: str, partitions: int, ttl: timedelta
    ) -> None:
        self._leases = leases
        self._prefix = f"{name}#"
        self._owner = owner
        self._partitions = partitions
        self._numbers = {str(number): number for number in range(partitions)}
        self._ttl = ttl
        self._seat: Lease | None = None
        self._doubtful_until = 0.0  # by the loop's clock: see `_sit_down`

    async def look(self) -> Sight:
        """Say that this worker is alive, and see who else is.

        Raises:
            SubscriptionStateError: another worker has taken the seat under this name.
            StoreError: the store could not be asked.
        """
        had = seat = self._seat
        if had is not None:
            seat = await self._leases.renew(had, self._ttl)
        seats, owners = await self._listed()
        if seat is None:
            others = had is not None and self._owner in seats.values()
            if others and _now() >= self._doubtful_until:
                raise SubscriptionStateError(
                    f"another worker has taken over as {self._owner!r}: "
                    "each needs an owner of its own"
                )
            self._seat = None  # not before: who is cut off here looks again
            await self._sit_down(seats)
        else:
            self._seat = seat
        members = frozenset({*seats.values(), self._owner})
        return Sight(members, owners, assign(self._partitions, members, owners))

    async def leave(self) -> None:
        """Let the others see that this worker takes no part any more."""
        seat, self._seat = self._seat, None
        if seat is not None:
            await self._leases.release(seat)

    async def _listed(self) -> tuple[dict[str, str], dict[int, str]]:
        seats: dict[str, str] = {}
        owners: dict[int, str] = {}
        for lease in await self._leases.list(self._prefix):
            what = lease.name.removeprefix(self._prefix)
            if what.startswith(_SEAT):
                seats[lease.name] = lease.owner
            elif what in self._numbers:  # others may have leases of such names
                owners[self._numbers[what]] = lease.owner
        return seats, owners

    async def _sit_down(self, seats: Mapping[str, str]) -> None:
        """Take the seat that this worker's predecessor had, or the first free one.

        One that was asked for in vain may still be given: for some time what looks like
        somebody else of this name may be this worker itself.
        """
        for number in count():
            name = f"{self._prefix}{_SEAT}{number}"
            if seats.get(name, self._owner) == self._owner:
                before = self._doubtful_until
                self._doubtful_until = _now() + _LATE * self._ttl.total_seconds()
                self._seat = await self._leases.acquire(name, self._owner, self._ttl)
                self._doubtful_until = before  # this one was answered
                if self._seat is not None:
                    return
