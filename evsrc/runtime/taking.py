"""Take a dead letter, so that one of several who try handles its event.

Whoever has the letter's lease tries; who dies has it for so long and no longer. The
lease's `Fence` keeps one that was taken for dead from writing what another has written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

from ..core.errors import StoreError, SubscriptionStateError
from ..ports import Fence, Lease, Leases
from .ids import new_id
from .run import log

WHILE_TRYING: Final = timedelta(seconds=30)
"""How long a letter stays taken after whoever tried it has died."""
_BEATS: Final = 3  # in the time of a lease


@asynccontextmanager
async def taken(
    leases: Leases, subscription: str, event_id: UUID, ttl: timedelta = WHILE_TRYING
) -> AsyncGenerator[Fence]:
    """Have a letter for as long as the block runs, and *ttl* longer if we die in it.

    Raises:
        SubscriptionStateError: somebody else has it.
        ValueError: *ttl* is no time.
    """
    if ttl <= timedelta(0):
        raise ValueError(f"a lease lasts for some time, not for {ttl!r}")
    name = f"{subscription}#letter/{event_id}"
    lease = await leases.acquire(name, str(new_id()), ttl)
    if lease is None:
        raise SubscriptionStateError(await _refusal(leases, name, event_id))
    beating = asyncio.create_task(_beat(leases, lease, ttl), name=f"evsrc:{name}")
    try:
        yield Fence(name, lease.token)
    finally:
        beating.cancel()
        await asyncio.wait([beating])
        with suppress(StoreError):  # it will expire
            await leases.release(lease)


async def _refusal(leases: Leases, name: str, event_id: UUID) -> str:
    until = "".join(
        f"; if that one has died, it is free at {lease.until.isoformat()}"
        for lease in await leases.list(name)
        if lease.name == name
    )
    return (
        f"the dead letter of event {event_id} is not to be taken: somebody else tries "
        f"it now{until}"
    )


async def _beat(leases: Leases, lease: Lease, ttl: timedelta) -> None:
    """Renew a lease again and again, until it is lost."""
    while True:
        await asyncio.sleep(ttl.total_seconds() / _BEATS)
        try:
            renewed = await leases.renew(lease, ttl)
        except StoreError as error:
            log.warning("lease %r not renewed: %r", lease.name, error)
            continue
        if renewed is None:
            log.warning("lease %r (token %d) is lost", lease.name, lease.token)
            return
