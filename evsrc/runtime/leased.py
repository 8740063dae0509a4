"""Run one subscription for as long as a lease is held, and not a moment longer.

Safety comes from the token, which each checkpoint carries as a `Fence`. The timer here
only keeps a worker from handling what it could not record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final, Generic

from ..core.errors import LeaseLostError, StoreError, SubscriptionError
from ..core.event import E
from ..ports import Fence, Lease, Leases
from .subscribe import Subscription

_log: Final = logging.getLogger("evsrc")
_AT_ONCE: Final = timedelta(0)


class Leased(Generic[E]):
    """A partition that this worker has; nothing is delivered before `start`.

    Args:
        number: which one.
        lease: the right to deliver it.
        until: when to stop unless it is renewed, by the event loop's clock.
        make: makes the subscription; asked again after an error of the store.
        gone: called when nothing of it runs any more.
    """

    def __init__(
        self,
        number: int,
        lease: Lease,
        until: float,
        make: Callable[[Leased[E]], Subscription[E]],
        gone: Callable[[Leased[E]], None],
    ) -> None:
        self.number = number
        self.lease = lease
        self.leaving = False  # handing over, or lost
        self._make = make
        self._gone = gone
        self._endings: set[asyncio.Task[None]] = set()
        self._alarm = asyncio.get_running_loop().call_at(until, self.lose)
        self.subscription = make(self)

    def start(self) -> None:
        """Deliver."""
        if not self.leaving:
            self.subscription.start()

    def fence(self) -> Fence:
        """Give what each checkpoint carries."""
        return Fence(self.lease.name, self.lease.token)

    def renewed(self, lease: Lease, until: float) -> None:
        """Go on until then."""
        self.lease = lease
        self._alarm.cancel()
        if self.leaving and not self._endings:
            return  # it ended while it was being renewed
        self._alarm = asyncio.get_running_loop().call_at(until, self.lose)

    def restart(self) -> None:
        """Deliver again, from the checkpoint on, if an error of the store ended it.

        Not if the handler gave up, with which another worker would fare no better, nor
        if the lease was lost, which the next renewal will tell.
        """
        ended = self.subscription.ended and not self.leaving
        for_good = (SubscriptionError, LeaseLostError)
        if ended and not isinstance(self.subscription.error, for_good):
            self.subscription = self._make(self)
            self.start()

    def hand_over(self, leases: Leases, patience: timedelta, answer: float) -> None:
        """Finish the event in hand, save the checkpoint, and release the lease.

        It expires if the release is not answered in so many seconds.
        """
        if not self.leaving:
            self._leave(self._hand_over(leases, patience, answer))

    def lose(self) -> None:
        """Stop at once, in the middle of the handler: the lease is no longer ours."""
        _log.warning("lease %r (token %d) is lost", self.lease.name, self.lease.token)
        self._leave(self._stop(_AT_ONCE))

    async def abort(self) -> None:
        """Stop at once, and return when nothing of it runs."""
        self._leave(self._stop(_AT_ONCE))
        await asyncio.wait(self._endings)

    def _leave(self, how: Coroutine[Any, Any, None]) -> None:
        self.leaving = True
        ending = asyncio.create_task(how, name=f"evsrc:{self.lease.name}:leave")
        self._endings.add(ending)
        ending.add_done_callback(self._left)

    def _left(self, ending: asyncio.Task[None]) -> None:
        self._endings.discard(ending)
        if not self._endings:
            self._alarm.cancel()
            self._gone(self)

    async def _hand_over(
        self, leases: Leases, patience: timedelta, answer: float
    ) -> None:
        await self._stop(patience)
        try:
            async with asyncio.timeout(answer):
                await leases.release(self.lease)
        except (StoreError, TimeoutError) as error:
            _log.warning("lease %r not released: %r", self.lease.name, error)

    async def _stop(self, patience: timedelta) -> None:
        """End the subscription; a handler may take its time to be cancelled."""
        while not self.subscription.ended:
            await self.subscription.stop(patience)
            patience = max(patience, timedelta(seconds=1))
