"""Share a subscription among several processes, so that it outlives any of them.

In each beat, a third of a lease long, a worker renews its leases, looks who else is
there, gives up what is more than its share and takes what nobody has. Nobody leads.
What the store leaves unanswered for a third of a lease is asked again, renewals at
once, so that one that stalls for half a lease costs none.
What two workers may believe at the same time does not matter: each checkpoint carries
the token of its lease, so only one of them can move it. Only the store's clock says
when a lease is over; the event loop's says how long ago it was renewed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final, Generic

from ..core.errors import (
    StoreClosedError,
    StoreError,
    SubscriptionError,
    SubscriptionStateError,
)
from ..core.event import E
from ..ports import EventStore
from .agreement import agree, check_arguments, checkpoint_name
from .delivery import AnyHandler, Delivery, State
from .leased import Leased
from .membership import Membership, Sight
from .pages import SharedPages
from .subscribe import Subscription, subscribe
from .worker_status import PartitionStatus, WorkerStatus

_log: Final = logging.getLogger("evsrc")
_BEATS: Final = 3  # in the time of a lease
_ANSWER: Final = 1 / 3  # of a lease, for the store to answer before it is asked again
_SAFE: Final = 0.9  # of a lease, from when its renewal was asked for: stop then
_ATTEMPTS: Final = 2  # at a renewal that is not answered; then the lease is over
_RENEWED_AT_ONCE: Final = 4  # the store has other work to do
_PATIENCE: Final = timedelta(seconds=30)


class Worker(Generic[E]):
    """One of the workers that share a subscription; made by `work`.

    `async with` starts it and stops it.
    """

    def __init__(
        self,
        store: EventStore[E],
        name: str,
        handle: AnyHandler[E],
        delivery: Delivery[E],
        *,
        owner: str,
        partitions: int,
        lease: timedelta,
    ) -> None:
        check_arguments(name, owner, partitions, lease, delivery)
        self.name = name
        self.owner = owner
        self.partitions = partitions
        self.state = State.STARTING
        self._store = store
        self._handle = handle
        self._delivery = delivery
        self._lease = lease
        self._answer = lease.total_seconds() * _ANSWER
        self._membership = Membership(store.leases, name, owner, partitions, lease)
        self._sight = Sight(frozenset(), {}, {})
        self._pages = SharedPages(store.read_all, partitions)
        self._leased: dict[int, Leased[E]] = {}
        self._error: Exception | None = None
        self._rebalances = 0
        self._had: set[int] = set()
        self._patience = _PATIENCE
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()  # set while it has nothing
        self._few = asyncio.Semaphore(_RENEWED_AT_ONCE)
        self._waiting: list[asyncio.Future[bool]] = []

    # Control.

    async def __aenter__(self) -> Worker[E]:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Take part.

        Raises:
            SubscriptionStateError: it was started before.
            SubscriptionConfigError: the subscription has another number of partitions.
            StoreError: the store could not be asked.
        """
        if self._task is not None:
            raise SubscriptionStateError(f"worker {self.owner!r} was started before")
        await agree(self._store, self.name, self.partitions, self._delivery.start)
        self._task = asyncio.create_task(self._run(), name=f"evsrc:{self.name}")

    async def stop(self, timeout: timedelta = _PATIENCE) -> None:
        """Finish the events in hand, save the checkpoints, release all; in *timeout*.

        A handler that takes too long is cancelled; its event is delivered again by the
        next worker. A lease that could not be released expires.
        """
        self._patience = timeout * 0.8
        self._stopping.set()
        if self._task is None:
            self.state = State.STOPPED
            return
        done, _ = await asyncio.wait(
            [self._task], timeout=timeout.total_seconds() * 0.9
        )
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=timeout.total_seconds() * 0.1)

    async def balanced(self, timeout: timedelta = _PATIENCE) -> None:
        """Return when each partition was seen with the worker that should have it.

        Raises:
            SubscriptionError: this worker has ended.
            TimeoutError: *timeout* is over.
        """
        async with asyncio.timeout(timeout.total_seconds()):
            while not await self._next_sight():
                pass

    async def _next_sight(self) -> bool:
        if self.state in (State.STOPPED, State.FAILED):
            raise SubscriptionError(
                f"worker {self.owner!r} {self.state}"
                + (f": {self._error!r}" if self._error else "")
            ) from self._error
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(told)
        return await told

    @property
    def healthy(self) -> bool:
        """Whether it takes part, and events flow in all that it has."""
        return self.state is State.LIVE and all(
            leased.subscription.healthy for leased in self._leased.values()
        )

    def status(self) -> WorkerStatus:
        """Tell what it is doing, as far as it is known without asking the store."""
        partitions = tuple(
            PartitionStatus(
                partition=number,
                token=leased.lease.token,
                subscription=leased.subscription.status(),
            )
            for number, leased in sorted(self._leased.items())
        )
        errors = (each.subscription.error for each in partitions)
        return WorkerStatus(
            name=self.name,
            owner=self.owner,
            state=self.state,
            partitions=partitions,
            members=self._sight.shares,
            rebalances=self._rebalances,
            error=self._error or next(filter(None, errors), None),
        )

    # The loop.

    async def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                over = self._beat_from_now()
                await self._beat(over)
                await self._rest(self._stopping, over)
            await self._leave()
            self._end(State.STOPPED)
        except asyncio.CancelledError:
            self._end(State.STOPPED)
            raise
        except Exception as error:  # noqa: BLE001 - it ends here, for all to see
            _log.exception("worker %r of %r failed", self.owner, self.name)
            self._error = error
            self._end(State.FAILED)
        finally:
            for leased in tuple(self._leased.values()):
                await leased.abort()

    async def _beat(self, over: float) -> None:
        """Renew, look, and take and give up what is due; an absent store is waited for.

        What cannot be taken before the beat is *over* is left to the next one.

        Raises:
            StoreClosedError: it was closed here.
            SubscriptionStateError: another worker has taken over under our name.
        """
        waiting, self._waiting = self._waiting, []
        balanced = False
        try:
            await self._renew()
            async with asyncio.timeout(self._answer):
                sight = await self._membership.look()
            await self._rebalance(sight, over)
            self._sight = sight.with_those(self.owner, self._leased)
            balanced = self._sight.balanced
            self.state, self._error = State.LIVE, None
        except StoreClosedError:
            raise
        except (StoreError, TimeoutError) as error:
            _log.warning("worker %r of %r: %r", self.owner, self.name, error)
            self.state, self._error = State.RETRYING, error
        finally:
            for told in waiting:
                if not told.done():
                    told.set_result(balanced)

    def _beat_from_now(self) -> float:
        now = asyncio.get_running_loop().time()
        return now + self._lease.total_seconds() / _BEATS

    async def _renew(self) -> None:
        async with asyncio.TaskGroup() as group:
            for leased in self._leased.values():
                group.create_task(self._renew_one(leased))

    async def _renew_one(self, leased: Leased[E]) -> None:
        async with self._few:
            for _ in range(_ATTEMPTS):
                asked = asyncio.get_running_loop().time()
                try:
                    async with asyncio.timeout(self._answer):
                        renew = self._store.leases.renew
                        lease = await renew(leased.lease, self._lease)
                except (StoreError, TimeoutError) as error:
                    _log.warning("lease %r not renewed: %r", leased.lease.name, error)
                    if isinstance(error, TimeoutError):
                        continue
                    return
                if lease is None:
                    leased.lose()
                else:
                    leased.renewed(lease, self._until(asked))
                return

    async def _rebalance(self, sight: Sight, over: float) -> None:
        due = sight.of(self.owner)
        for number, leased in self._leased.items():
            if number not in due:
                leased.hand_over(self._store.leases, self._patience, self._answer)
            leased.restart()
        await self._take(
            [
                number
                for number in due
                if number not in self._leased
                and sight.owners.get(number, self.owner) == self.owner
            ],
            over,
        )
        have = set(self._leased)
        self._rebalances += have != self._had
        self._had = have

    async def _take(self, numbers: list[int], over: float) -> None:
        """Take what is free, and start together, so that pages can be shared."""
        taken: list[Leased[E]] = []
        try:
            for number in numbers:
                asked = asyncio.get_running_loop().time()
                name = f"{self.name}#{number}"
                async with asyncio.timeout(self._answer):
                    acquire = self._store.leases.acquire
                    lease = await acquire(name, self.owner, self._lease)
                if lease is not None:
                    until = self._until(asked)
                    leased = Leased(number, lease, until, self._make, self._gone)
                    self._leased[number] = leased
                    taken.append(leased)
                if asyncio.get_running_loop().time() >= over:
                    break  # what is there has to be renewed
        finally:
            for leased in taken:
                leased.start()

    def _until(self, asked: float) -> float:
        return asked + self._lease.total_seconds() * _SAFE

    def _make(self, leased: Leased[E]) -> Subscription[E]:
        store = replace(self._store, read_all=self._pages.of(leased.number))
        also = self._delivery.also
        delivery = replace(
            self._delivery,
            start="checkpoint",
            also=lambda: (*also(), leased.fence()),
        )
        name = checkpoint_name(self.name, leased.number, self.partitions)
        return subscribe(store, name, self._handle, delivery)

    def _gone(self, leased: Leased[E]) -> None:
        if self._leased.get(leased.number) is leased:
            del self._leased[leased.number]
        if not self._leased:
            self._empty.set()

    async def _rest(self, until: asyncio.Event, over: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(over):
                await until.wait()

    async def _leave(self) -> None:
        """Give up everything; what takes its time keeps its lease for so long."""
        over = asyncio.get_running_loop().time()  # renew at once
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(self._answer):
                await self._membership.leave()
        self._empty.clear()
        for leased in self._leased.values():
            leased.hand_over(self._store.leases, self._patience, self._answer)
        while self._leased:
            await self._rest(self._empty, over)
            over = self._beat_from_now()
            await self._renew()

    def _end(self, state: State) -> None:
        self.state = state
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            if not told.done():
                told.set_result(False)


def work(
    store: EventStore[E],
    name: str,
    handle: AnyHandler[E],
    delivery: Delivery[E] | None = None,
    *,
    owner: str,
    partitions: int = 1,
    lease: timedelta = timedelta(seconds=10),
) -> Worker[E]:
    """Make a worker that shares the subscription *name* with others.

    Each event is handled at least once, those of one stream in order. Each partition is
    with one worker at a time; a worker that dies, hangs or is cut off is replaced when
    its leases are over, one that joins gets its share, one that leaves gives it up at
    once. A worker that has lost a lease without noticing can still be in the middle of
    its handler, but can move no checkpoint.

    Args:
        store: the log to read; checkpoints and leases are kept there.
        name: whose progress is shared, as in `subscribe`; without "#".
        handle: gets each event; those of different partitions at the same time.
        delivery: which events, and what to do about failures. `start` counts only when
            the subscription gets its first worker.
        owner: the worker's own name, of its host and process perhaps. A worker that
            takes over under a name in use replaces the one that has it.
        partitions: by how many workers it can be shared at most; each stream is in one
            of them, see `partition_of`. Fixed by the first worker. With 1, one worker
            delivers and the others stand by.
        lease: how long the others wait for a worker that is silent. It renews in a
            third of it.

    Raises:
        SubscriptionConfigError: an argument makes no sense.

    >>> import asyncio
    >>> from evsrc.stores.memory import memory_store
    >>> async def main():
    ...     async with work(memory_store(), "mail", print, owner="web-1") as worker:
    ...         await worker.balanced()
    ...         return worker.status().members
    >>> asyncio.run(main())
    {'web-1': (0,)}
    """
    return Worker(
        store,
        name,
        handle,
        delivery or Delivery(),
        owner=owner,
        partitions=partitions,
        lease=lease,
    )
